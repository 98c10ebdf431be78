"""PyTorch implementation of :mod:`~focal_plugin.ops.dense_loss`, in chunks that fit the cache."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from .chunks import Positives, chunks
from .dense_loss_block import FLUSHED_BELOW, Block, Terms
from .few_anchors import evaluate_counted
from .formula import Point

FEW = 1 / 4
"""Share of anchors that count below which the others are skipped."""


def why_not(block: Block, terms: Terms) -> str | None:
    """Return None: nothing prevents it."""
    return None


def evaluate(block: Block, terms: Terms, factor: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Compute loss and gradient, see :data:`~focal_plugin.ops.dense_loss_block.Evaluate`."""
    return evaluate_counted(_evaluate_all, block, terms, factor, few=FEW)


def _evaluate_all(
    block: Block, terms: Terms, factor: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    per_anchor = torch.zeros(block.labels.shape, device=block.labels.device)
    gradient = None if factor is None else torch.empty_like(block.logits)
    positives = Positives.of(block)
    _negatives(block, terms, factor, positives, per_anchor, gradient)
    # The values computed for ignored anchors may be NaN
    ignored = (block.labels < 0).nonzero(as_tuple=True)
    per_anchor[ignored] = 0
    if gradient is not None:
        group, anchor = ignored
        gradient[group, :, anchor] = 0
    _add_positives(block, terms, factor, positives, per_anchor, gradient)
    return per_anchor, gradient


def _negatives(
    block: Block,
    terms: Terms,
    factor: Tensor | None,
    positives: Positives,
    per_anchor: Tensor,
    gradient: Tensor | None,
) -> None:
    """Write ``per_anchor`` and the ``gradient`` of all negatives, as if no anchor was ignored."""
    num_classes = block.logits.shape[1]
    weights = terms.weights(num_classes, block.logits.device)[1].view(1, -1, 1)
    if factor is not None and factor.dim():
        factor = factor.unsqueeze(1)  # (G, 1, T)
    for chunk, of_chunk in chunks(block.logits.shape, positives.at):
        logits = block.logits[chunk]
        minus_x = _padded(logits)
        at = Point(-minus_x)
        at.minus_x = minus_x
        groups, planes = chunk
        # The gradient comes first, because the value may share memory and is written into
        if gradient is not None and factor is not None:
            slope = _unpadded(terms.negative.slope(at), logits.shape)
            scale = weights[:, planes] * (factor[groups] if factor.dim() else factor)
            gradient[chunk] = F.hardshrink(slope, FLUSHED_BELOW).mul_(-scale)
        value = terms.negative.value(at)
        value[of_chunk] = 0
        value = _unpadded(value, logits.shape).mul_(weights[:, planes])
        per_anchor[groups] += _sum_over_planes(value)


def _padded(logits: Tensor, multiple: int = 1 << 13) -> Tensor:
    """
    Copy the logits to a flat, padded float32 tensor.

    PyTorch cuts a tensor into vectors for each thread. It computes the remainder with other
    instructions, which can change the last bits. With one or two threads, the padding leaves no
    remainder.
    """
    count = logits.numel()
    flat = logits.new_empty(count + -count % multiple, dtype=torch.float32)
    flat[:count].view(logits.shape).copy_(logits)
    flat[count:] = 0
    return flat


def _unpadded(flat: Tensor, shape: torch.Size) -> Tensor:
    return flat[: shape.numel()].view(shape)


def _sum_over_planes(value: Tensor) -> Tensor:
    """Sum (G, K, T) -> (G, T), in the same order whichever thread computes it."""
    if value.shape[2] == 1:
        return value.sum(dim=1)
    return functools.reduce(torch.add, value.unbind(dim=1))


def _add_positives(
    block: Block,
    terms: Terms,
    factor: Tensor | None,
    positives: Positives,
    per_anchor: Tensor,
    gradient: Tensor | None,
) -> None:
    """Add the positives to ``per_anchor``, and write their part of ``gradient``."""
    shape = positives.at.shape
    weights = terms.weights(block.logits.shape[1], block.logits.device)[0][positives.label]
    quality = None
    if block.quality is not None:
        quality = _padded(block.quality.view(-1)[positives.anchor])
    at = Point(_padded(block.logits.view(-1)[positives.at]), quality)
    value = _unpadded(terms.positive.value(at), shape) * weights
    per_anchor.view(-1)[positives.anchor] += value
    if gradient is not None and factor is not None:
        slope = F.hardshrink(_unpadded(terms.positive.slope(at), shape), FLUSHED_BELOW) * weights
        slope *= factor.reshape(-1)[positives.anchor] if factor.dim() else factor
        gradient.view(-1)[positives.at] = slope.to(gradient.dtype)
