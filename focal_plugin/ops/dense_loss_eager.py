"""The loss of :mod:`~focal_plugin.ops.dense_loss` in PyTorch, in chunks that stay in the cache."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .dense_loss import FLUSHED_BELOW, Block, Terms
from .formula import Point

LOGITS_PER_CHUNK = 1 << 18
"""
With fewer, what an operation costs whatever its size is felt; with a quarter of it, the more so
where other processes take a core from the threads that all operations wait for.
"""


def why_not(block: Block, terms: Terms) -> str | None:
    """Nothing ever hinders it."""
    return None


def evaluate(block: Block, terms: Terms, factor: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """See :data:`~focal_plugin.ops.dense_loss.Evaluate`."""
    per_anchor = torch.zeros(block.labels.shape, device=block.logits.device)
    gradient = None if factor is None else torch.empty_like(block.logits)
    if factor is not None and factor.dim():
        factor = factor.unsqueeze(1)  # (G, 1, T)
    _negatives(block, terms, factor, per_anchor, gradient)
    _positives(block, terms, factor, per_anchor, gradient)
    return per_anchor, gradient


def _negatives(
    block: Block, terms: Terms, factor: Tensor | None, per_anchor: Tensor, gradient: Tensor | None
) -> None:
    """Add to ``per_anchor``, and write all of ``gradient``, with 0 where there is no negative."""
    num_classes, device = block.logits.shape[1], block.logits.device
    classes = torch.arange(num_classes, device=device, dtype=torch.int32).view(1, -1, 1)
    weights = terms.weights(num_classes, device)[1].view(1, -1, 1)
    one_weight = not isinstance(terms.negative_weight, Tensor)
    for groups, planes in _chunks(*block.logits.shape):
        labels = block.labels[groups].unsqueeze(1)  # (g, 1, T)
        is_no_negative = (labels == classes[:, planes]) | (labels < 0)
        at = Point(_padded(block.logits[groups, planes]).neg_())
        value = _unpadded(terms.negative.value(at), is_no_negative.shape)
        value = value.masked_fill_(is_no_negative, 0.0)
        if one_weight:
            per_anchor[groups].add_(_sum_over_planes(value), alpha=terms.negative_weight)
        else:
            per_anchor[groups] += _sum_over_planes(value.mul_(weights[:, planes]))
        if gradient is not None:
            slope = _unpadded(terms.negative.slope(at), is_no_negative.shape)
            slope = F.hardshrink(slope, FLUSHED_BELOW).masked_fill_(is_no_negative, 0.0)
            scale = weights[:, planes] * (factor[groups] if factor.dim() else factor)
            gradient[groups, planes] = slope.mul_(-scale)


def _padded(logits: Tensor, multiple: int = 1 << 13) -> Tensor:
    """
    A copy, float32, flat. What is left over when PyTorch has cut a tensor into as many vectors as
    fit, for each of its threads, it computes by other means, with other last bits. With one thread
    or two, nothing is left over.
    """
    count = logits.numel()
    flat = logits.new_empty(count + -count % multiple, dtype=torch.float32)
    flat[:count].view(logits.shape).copy_(logits)
    flat[count:] = 0
    return flat


def _unpadded(flat: Tensor, shape: torch.Size) -> Tensor:
    return flat[: shape.numel()].view(shape)


def _sum_over_planes(value: Tensor) -> Tensor:
    """(G, K, T) -> (G, T), each in the same order, whichever thread comes to add it up."""
    if value.shape[2] == 1:
        return value.sum(dim=1)
    return functools.reduce(torch.add, value.unbind(dim=1))


def _positives(
    block: Block, terms: Terms, factor: Tensor | None, per_anchor: Tensor, gradient: Tensor | None
) -> None:
    """
    Add to ``per_anchor``, and write into ``gradient``, the one logit of each anchor that its label
    names. It is done for every anchor, and kept where there is a class: to look for them would let
    a GPU wait.
    """
    num_classes = block.logits.shape[1]
    has_class = (block.labels >= 0) & (block.labels < num_classes)
    classes = block.labels.long().masked_fill(~has_class, 0)
    weights = terms.weights(num_classes, block.logits.device)[0][classes]
    column = classes.unsqueeze(1)  # (G, 1, T)
    logits = block.logits.gather(1, column).squeeze(1).masked_fill(~has_class, 0.0)
    quality = None if block.quality is None else _padded(block.quality)
    at = Point(_padded(logits), quality)
    value = _unpadded(terms.positive.value(at), classes.shape) * weights
    per_anchor += value.masked_fill_(~has_class, 0.0)
    if gradient is not None:
        slope = _unpadded(terms.positive.slope(at), classes.shape)
        slope = (F.hardshrink(slope, FLUSHED_BELOW) * weights).unsqueeze(1)
        slope = (slope * factor).to(gradient.dtype)
        negative = gradient.gather(1, column)
        gradient.scatter_(1, column, torch.where(has_class.unsqueeze(1), slope, negative))


def _chunks(num_groups: int, num_planes: int, num_anchors: int) -> Iterator[tuple[slice, slice]]:
    """Slices of whole groups, or, where one is too large, of its planes."""
    group = max(num_planes * num_anchors, 1)
    groups = max(LOGITS_PER_CHUNK // group, 1)
    planes = max(LOGITS_PER_CHUNK // max(num_anchors, 1), 1)
    for first in range(0, num_groups, groups):
        for plane in range(0, num_planes, planes):
            yield slice(first, first + groups), slice(plane, plane + planes)
