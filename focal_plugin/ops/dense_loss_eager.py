"""PyTorch implementation of :mod:`~focal_plugin.ops.dense_loss`, in chunks that fit the cache."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .chunks import Positives, chunks
from .dense_loss_block import FLUSHED_BELOW, Block, Terms
from .few_anchors import evaluate_counted
from .formula import Point
from .ordered_sum import ordered_sum, sum_over_planes
from .padding import padded, unpadded
from .recycled import empty_recycled

FEW = 1 / 4
"""Share of anchors that count below which the others are skipped."""


def why_not(block: Block, terms: Terms) -> str | None:
    """Return None: nothing prevents it."""
    return None


def evaluate(
    block: Block, terms: Terms, factor: Tensor | None, slopes: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Compute loss and gradient, see :class:`~focal_plugin.ops.dense_loss_block.Evaluate`."""
    return evaluate_counted(_evaluate_all, block, terms, factor, slopes, few=FEW)


def _evaluate_all(
    block: Block, terms: Terms, factor: Tensor | None, slopes: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    device = block.labels.device
    work = _Work(
        block=block,
        terms=terms,
        weights=terms.weights(block.logits.shape[1], device),
        positives=Positives.of(block),
        ignored=(block.labels < 0).nonzero(as_tuple=True),
        of_anchors=terms.weight_of_anchors(block.labels),
        factor=factor,
        per_anchor=torch.zeros(block.labels.shape, device=device),
        gradient=None if factor is None else empty_recycled(block.logits),
        slopes=slopes,
    )
    _negatives(work)
    # The values computed for ignored anchors may be NaN
    work.per_anchor[work.ignored] = 0
    if work.gradient is not None:
        group, anchor = work.ignored
        work.gradient[group, :, anchor] = 0
    _add_positives(work)
    if work.of_anchors is not None:
        work.per_anchor.mul_(work.of_anchors)
    return work.per_anchor, work.gradient


class _Work(NamedTuple):
    """Inputs, and the results, which are written in place."""

    block: Block
    terms: Terms
    weights: Tensor  # (3, K), see Terms.weights
    positives: Positives
    ignored: tuple[Tensor, ...]  # indices of the ignored anchors in (G, T)
    of_anchors: Tensor | None  # (G, T), weight of each anchor
    factor: Tensor | None
    per_anchor: Tensor
    gradient: Tensor | None
    slopes: Tensor | None

    @property
    def has_slope(self) -> bool:
        return self.gradient is not None or self.slopes is not None

    def scale(self) -> Tensor:
        """Return the factor of the slopes in the gradient, () or (G, T)."""
        assert self.factor is not None
        return self.factor if self.of_anchors is None else self.factor * self.of_anchors

    def spared(self, groups: slice, planes: slice) -> Tensor | None:
        """Return the mask of the logits that an object spares, bool (G, K, T), or None."""
        if self.terms.spared is None:
            return None
        labels = self.block.labels[groups]
        is_object = (labels >= 0) & (labels < self.block.logits.shape[1])
        return is_object.unsqueeze(1) & self.terms.spared[planes].view(1, -1, 1)


def _negatives(work: _Work) -> None:
    """Write the loss and the gradient of all negatives, as if no anchor was ignored."""
    logits = work.block.logits
    for chunk, of_chunk in chunks(logits.shape, work.positives.at):
        groups, planes = chunk
        shape = logits[chunk].shape
        minus_x = padded(logits[chunk])
        at = Point(-minus_x)
        at.minus_x = minus_x
        of_planes = functools.partial(_of_chunk, planes=planes, shape=shape)
        formula = work.terms.negative.with_parameters(of_planes)
        spared = work.spared(groups, planes)
        # The slope comes first, because the value may share memory and is written into
        if work.has_slope:
            slope = F.hardshrink(unpadded(formula.slope(at), shape), FLUSHED_BELOW)
            if spared is not None:
                slope.masked_fill_(spared, 0.0)
            _add_slopes(work, chunk, of_chunk, slope)
            _write_gradient(work, chunk, slope)
        value = formula.value(at)
        value[of_chunk] = 0
        value = unpadded(value, shape).mul_(work.weights[1, planes].view(1, -1, 1))
        if spared is not None:
            value.masked_fill_(spared, 0.0)
        work.per_anchor[groups] += sum_over_planes(value)


def _of_chunk(parameter: Tensor, *, planes: slice, shape: torch.Size) -> Tensor:
    """Expand a parameter of all classes, (K,), to the logits of a chunk, padded."""
    return padded(parameter[planes].view(1, -1, 1).expand(shape))


def _add_slopes(work: _Work, chunk: tuple[slice, slice], positives: Tensor, slope: Tensor) -> None:
    """Add the slopes of the negatives of a chunk, if they are requested."""
    if work.slopes is None:
        return
    groups, planes = chunk
    magnitude = slope.abs()
    magnitude.view(-1)[positives] = 0
    magnitude.masked_fill_((work.block.labels[groups] < 0).unsqueeze(1), 0.0)
    if work.of_anchors is not None:
        magnitude *= work.of_anchors[groups].unsqueeze(1)
    of_classes = ordered_sum(magnitude.transpose(0, 1).flatten(1))
    work.slopes[1, planes] += of_classes * work.weights[1, planes]


def _write_gradient(work: _Work, chunk: tuple[slice, slice], slope: Tensor) -> None:
    """Write the gradient of a chunk, if it is requested; the slopes are modified."""
    if work.gradient is None:
        return
    groups, planes = chunk
    scale = work.scale()
    factor = scale[groups].unsqueeze(1) if scale.dim() else scale
    work.gradient[chunk] = slope.mul_(-work.weights[1, planes].view(1, -1, 1) * factor)


def _add_positives(work: _Work) -> None:
    """Add the loss of the positives, and write their part of the gradient."""
    block, positives = work.block, work.positives
    shape = positives.at.shape
    weights = work.weights[0][positives.label]
    quality = None
    if block.quality is not None:
        quality = padded(block.quality.view(-1)[positives.anchor])
    formula = work.terms.positive.with_parameters(lambda x: padded(x[positives.label]))
    at = Point(padded(block.logits.view(-1)[positives.at]), quality)
    value = unpadded(formula.value(at), shape) * weights
    work.per_anchor.view(-1)[positives.anchor] += value
    if not work.has_slope:
        return
    slope = F.hardshrink(unpadded(formula.slope(at), shape), FLUSHED_BELOW) * weights
    if work.slopes is not None:
        magnitude = slope.abs().double()
        if work.of_anchors is not None:
            magnitude *= work.of_anchors.view(-1)[positives.anchor]
        work.slopes[0].index_add_(0, positives.label, magnitude)
    if work.gradient is not None:
        scale = work.scale()
        slope *= scale.reshape(-1)[positives.anchor] if scale.dim() else scale
        work.gradient.view(-1)[positives.at] = slope.to(work.gradient.dtype)
