"""
Numbers of positive anchors that an assigner gives to objects, classes and levels.

Shape shorthand:
    N: number of images
    R: anchors per image over all levels
    K: number of classes
    L: feature levels
    V: objects with a positive anchor
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class PositiveCounts(NamedTuple):
    """Numbers of positive anchors in a batch, int64."""

    of_levels: Tensor
    """(L,)."""
    of_classes: Tensor
    """(K,)."""
    of_objects: Tensor | None
    """(V,), each at least 1; None if the objects are unknown."""


def count_positives(
    labels: Tensor, objects: Tensor | None, *, num_classes: int, sizes: Sequence[int]
) -> PositiveCounts:
    """
    Count the positive anchors of a batch.

    Args:
        labels: (N, R), integer in {-1 (ignored), 0..K-1, K (background)}.
        objects: (N, R), index of each positive's object in its image; None if it is unknown.
        num_classes: K.
        sizes: number of anchors of each level, R in total.
    """
    positive = (labels >= 0) & (labels < num_classes)
    of_objects = None
    if objects is not None:
        image, anchor = positive.nonzero(as_tuple=True)
        pairs = torch.stack([image, objects[image, anchor]])
        of_objects = pairs.unique(dim=1, return_counts=True)[1]
    return PositiveCounts(
        of_levels=torch.stack([x.sum() for x in positive.split(list(sizes), dim=1)]),
        of_classes=labels[positive].bincount(minlength=num_classes),
        of_objects=of_objects,
    )
