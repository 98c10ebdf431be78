"""
Parts of logits that fit the cache, and the places of the positives in them.

Shape shorthand:
    K: number of classes
    G, T: a tensor of logits in memory is G groups of K planes of T anchors: (G, K, T)
    V: positives
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .dense_loss_block import Block

LOGITS_PER_CHUNK = 1 << 18
"""
Number of logits in a chunk. Smaller chunks are dominated by per-op overhead. At a quarter of the
size, the overhead grows further if other processes use a core that the operations wait for.
"""


class Positives(NamedTuple):
    """Logits whose class is the label of their anchor, in memory order."""

    at: Tensor  # (V,), index into all logits
    anchor: Tensor  # (V,), index into all anchors
    label: Tensor  # (V,), int64

    @classmethod
    def of(cls, block: Block) -> Positives:
        _, num_classes, num_anchors = block.logits.shape
        is_positive = (block.labels >= 0) & (block.labels < num_classes)
        group, anchor = is_positive.nonzero(as_tuple=True)
        label = block.labels[group, anchor].long()
        at = (group * num_classes + label) * num_anchors + anchor
        order = at.argsort()
        return cls(at[order], (group * num_anchors + anchor)[order], label[order])


def chunks(shape: torch.Size, positives: Tensor) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """
    Yield parts of the logits (G, K, T): some groups, or some planes of a group that is too large.

    Args:
        positives: (V,), ascending indices into all logits.

    Yields:
        the slices of each part, and the indices of the positives in it.
    """
    num_groups, num_planes, num_anchors = shape
    groups = max(LOGITS_PER_CHUNK // max(num_planes * num_anchors, 1), 1)
    planes = max(LOGITS_PER_CHUNK // max(num_anchors, 1), 1)
    starts = [
        (group, plane)
        for group in range(0, num_groups, groups)
        for plane in range(0, num_planes, planes)
    ]
    first = [(group * num_planes + plane) * num_anchors for group, plane in starts]
    ends = torch.tensor([*first, math.prod(shape)], device=positives.device)
    bounds = torch.searchsorted(positives, ends).tolist()
    for i, (group, plane) in enumerate(starts):
        chunk = slice(group, group + groups), slice(plane, plane + planes)
        yield chunk, positives[bounds[i] : bounds[i + 1]] - first[i]
