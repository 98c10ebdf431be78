"""Largest difference between an exported detector and the detector in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .exported_model import Detections

BOX_TOLERANCE = 0.05
"""Largest difference of a box coordinate, pixels of the network's input."""

SCORE_TOLERANCE = 1e-3
"""Largest difference of a score."""


@dataclass(frozen=True)
class Agreement:
    """
    Differences over all images.

    Attributes:
        images: number of images.
        boxes: number of boxes of the detector in PyTorch.
        box_difference: largest difference of a coordinate in pixels; infinity if the numbers of
            boxes of a class differ.
        score_difference: largest difference of a score.
    """

    images: int
    boxes: int
    box_difference: float
    score_difference: float

    @property
    def is_within_tolerance(self) -> bool:
        """True if the exported detector may stand for the detector in PyTorch."""
        return self.box_difference <= BOX_TOLERANCE and self.score_difference <= SCORE_TOLERANCE


def compare(
    expected: Sequence[Detections],
    exported: Callable[[Tensor], Detections],
    images: Sequence[Tensor],
) -> Agreement:
    """
    Run an exported detector on images, and compare it with the detector in PyTorch.

    Two boxes whose scores differ by rounding may change places. So each box is compared with the
    nearest one of its class.

    Args:
        expected: detections of the detector in PyTorch on each image.
        images: (C, H, W) float32 each.
    """
    differences = [
        difference(first, exported(image)) for first, image in zip(expected, images, strict=True)
    ]
    return Agreement(
        images=len(images),
        boxes=sum(len(scores) for _, scores, _ in expected),
        box_difference=max(box for box, _ in differences),
        score_difference=max(score for _, score in differences),
    )


def difference(first: Detections, second: Detections) -> tuple[float, float]:
    """
    Return the largest differences of a coordinate and of a score between two sets of detections.

    Returns:
        infinity twice if the sets differ in their numbers of boxes of a class; 0 if both are empty.
    """
    if not torch.equal(first[2].sort().values, second[2].sort().values):
        return math.inf, math.inf
    if not len(first[1]):
        return 0.0, 0.0
    boxes = (first[0][:, None] - second[0]).abs().amax(dim=2).double()
    scores = (first[1][:, None] - second[1]).abs().double()
    other_class = first[2][:, None] != second[2]
    apart = (boxes / BOX_TOLERANCE + scores / SCORE_TOLERANCE).masked_fill(other_class, math.inf)
    largest = [0.0, 0.0]
    for dim in (0, 1):  # a box that only one of them has is far from all others
        nearest = apart.argmin(dim=dim, keepdim=True)
        for i, values in enumerate((boxes, scores)):
            largest[i] = max(largest[i], float(values.gather(dim, nearest).max()))
    return largest[0], largest[1]
