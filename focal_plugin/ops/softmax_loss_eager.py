"""PyTorch implementation of :mod:`~focal_plugin.ops.softmax_loss`, in chunks that fit the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .chunks import LOGITS_PER_CHUNK
from .dense_loss_block import FLUSHED_BELOW, Block
from .formula import Point
from .ordered_sum import sum_over_planes
from .padding import padded, unpadded
from .recycled import empty_recycled
from .softmax_loss_block import LARGEST, SoftmaxTerms


def why_not(block: Block, terms: SoftmaxTerms) -> str | None:
    """Return None: nothing prevents it."""
    return None


def evaluate(
    block: Block, terms: SoftmaxTerms, factor: Tensor | None, slopes: None = None
) -> tuple[Tensor, Tensor | None]:
    """Compute loss and gradient, see :class:`~focal_plugin.ops.softmax_loss_block.Evaluate`."""
    per_anchor = torch.empty(block.labels.shape, device=block.logits.device)
    gradient = None if factor is None else empty_recycled(block.logits)
    for groups, anchors in _chunks(block.logits.shape):
        chunk = Block(block.logits[groups, :, anchors], block.labels[groups, anchors], None)
        of_chunk = factor[groups, anchors] if factor is not None and factor.dim() else factor
        loss, slope = _evaluate_chunk(chunk, terms, of_chunk)
        per_anchor[groups, anchors] = loss
        if gradient is not None and slope is not None:
            gradient[groups, :, anchors] = slope
    return per_anchor, gradient


def _chunks(shape: torch.Size) -> Iterator[tuple[slice, slice]]:
    """Yield parts of the anchors (G, T): some groups, or a part of a group that is too large."""
    num_groups, num_columns, num_anchors = shape
    groups = max(LOGITS_PER_CHUNK // max(num_columns * num_anchors, 1), 1)
    anchors = max(LOGITS_PER_CHUNK // max(num_columns, 1), 1)
    for group in range(0, num_groups, groups):
        for anchor in range(0, num_anchors, anchors):
            yield slice(group, group + groups), slice(anchor, anchor + anchors)


def _evaluate_chunk(
    chunk: Block, terms: SoftmaxTerms, factor: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Compute loss and gradient of a chunk, of which no part is larger than the cache."""
    shape, of_anchors = chunk.logits.shape, chunk.labels.shape
    ignored = chunk.labels < 0
    labels = chunk.labels.long().masked_fill(ignored, 0)
    column = labels.unsqueeze(1)
    flat = padded(chunk.logits)
    others = unpadded(flat, shape)
    own = others.gather(1, column)
    others.scatter_(1, column, -LARGEST)
    largest = others.amax(dim=1, keepdim=True)
    others -= largest
    flat.exp_()
    sums = sum_over_planes(others)
    log_of_sums = unpadded(padded(sums).log_(), of_anchors)
    x_t = (own - largest).squeeze(1).sub_(log_of_sums).clamp_(max=LARGEST)
    at = Point(padded(x_t))
    slope = F.hardshrink(unpadded(terms.formula.slope(at), of_anchors), FLUSHED_BELOW)
    loss = unpadded(terms.formula.value(at), of_anchors).masked_fill(ignored, 0.0)
    weights = None if terms.weights is None else terms.weights[labels]
    if weights is not None:
        loss = loss * weights
    if factor is None:
        return loss, None
    scale = factor.expand(of_anchors) if weights is None else factor * weights
    others *= (-slope / sums).unsqueeze(1)
    gradient = F.hardshrink(others, FLUSHED_BELOW).mul_(scale.unsqueeze(1))
    gradient.scatter_(1, column, (slope * scale).unsqueeze(1))
    # The values computed for ignored anchors may be NaN
    group, anchor = ignored.nonzero(as_tuple=True)
    gradient[group, :, anchor] = 0
    return loss, gradient
