"""
Geometry of objects and anchors, and the choice between several objects of an anchor.

Shape shorthand:
    M: number of objects
    R: number of anchors
    P: pairs of an object and an anchor
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

MARGIN = 0.01
"""Pixels by which the center of a positive is inside of its object on all sides."""


def real(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors in one dtype: float64 if one of them has it, else float32."""
    dtype = functools.reduce(torch.promote_types, [x.dtype for x in tensors], torch.float32)
    return [x.to(dtype) for x in tensors]


def centers_of(boxes: Tensor) -> Tensor:
    """Return the centers of boxes, (..., 4) -> (..., 2)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def depth_inside(points: Tensor, boxes: Tensor) -> Tensor:
    """
    Return the distance of points from the nearest side of boxes, negative outside.

    Args:
        points: (..., 2).
        boxes: (..., 4), XYXY. The leading shapes broadcast.
    """
    x, y = points.unbind(dim=-1)
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.minimum(torch.minimum(x - x1, x2 - x), torch.minimum(y - y1, y2 - y))


class BestObject:
    """
    Object of each anchor: that of the largest score, the first in a tie.

    Attributes:
        index: int64 (R,), index of the object; -1 for an anchor without one.
    """

    def __init__(self, num_anchors: int, like: Tensor) -> None:
        """
        Start with no object for any anchor.

        Args:
            num_anchors: R.
            like: a tensor with the dtype and the device of the scores.
        """
        self.index = torch.full((num_anchors,), -1, device=like.device)
        self._score = like.new_full((num_anchors,), -torch.inf)

    def add(self, objects: Tensor, anchors: Tensor, score: Tensor) -> None:
        """
        Add pairs, in ascending order of the objects between two calls.

        Args:
            objects, anchors: int64 (P,).
            score: (P,), > -inf.
        """
        best = self._score.scatter_reduce(0, anchors, score, "amax")
        wins = (score == best[anchors]) & (score > self._score[anchors])
        nobody = torch.iinfo(torch.int64).max
        winner = torch.full_like(self.index, nobody)
        winner = winner.scatter_reduce(0, anchors[wins], objects[wins], "amin")
        self.index = torch.where(winner == nobody, self.index, winner)
        self._score = best


def check_boxes(name: str, boxes: Tensor, *, rows: int | None = None) -> None:
    """
    Check that boxes are (rows, 4).

    Raises:
        ValueError: they are not.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4 or rows not in {None, len(boxes)}:
        raise ValueError(
            f"{name} must be ({'..' if rows is None else rows}, 4), got {tuple(boxes.shape)}"
        )


def check_predictions(logits: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> None:
    """
    Check that predictions and objects match.

    Raises:
        ValueError: a shape does not match, or (checked on the CPU only, because the check would
            stall a GPU) the class of an object is outside 0..K-1.
    """
    if logits.dim() != 2:
        raise ValueError(f"logits must be (R, K), got {tuple(logits.shape)}")
    check_boxes("boxes", boxes, rows=len(logits))
    check_boxes("gt_boxes", gt_boxes)
    if gt_classes.shape != gt_boxes.shape[:1]:
        raise ValueError(f"gt_classes must be ({len(gt_boxes)},), got {tuple(gt_classes.shape)}")
    if gt_classes.device.type == "cpu" and len(gt_classes):
        low, high = map(int, gt_classes.aminmax())
        if low < 0 or high >= logits.shape[1]:
            raise ValueError(f"gt_classes must be in 0..{logits.shape[1] - 1}, got {low}..{high}")
