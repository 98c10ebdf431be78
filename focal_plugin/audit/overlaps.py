"""
Pairs of an object and an anchor with a large IoU, found without a visit to all anchors.

The overlap of a box with the anchors of one shape is the product of an overlap by column and one by
row. Both are known in closed form, so the anchors above an IoU are found directly. Their IoUs are
then computed as Detectron2 does, in float32.

Shape shorthand:
    O: number of objects
    S: number of anchor shapes, over all levels
    P: number of pairs
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .anchor_grid import AnchorGrid, Axis
from .locations import Locations, Ranges

MARGIN = 1e-3
"""Relative difference of IoUs that is larger than every rounding of float32."""


class Pairs(NamedTuple):
    """
    Pairs in the order of their objects.

    Attributes:
        object: (P,), int64, index of the object among those given.
        shape: (P,), int64 in 0..S-1, shape of the anchor.
        column, row: (P,), int64, location of the anchor.
        iou: (P,), float32, that of Detectron2's `pairwise_iou`.
    """

    object: np.ndarray
    shape: np.ndarray
    column: np.ndarray
    row: np.ndarray
    iou: np.ndarray


def overlapping_pairs(
    grid: AnchorGrid, boxes: np.ndarray, locations: Locations, *, floor: float
) -> Pairs:
    """
    Return the pairs whose IoU is at least ``floor``, and the best pairs of every object.

    Some pairs with an IoU below by less than :data:`MARGIN` are returned too. Objects that overlap
    no anchor have no pairs.

    Args:
        boxes: (O, 4), float32, XYXY in pixels of the network's input.
        locations: those of each object's image that count.
        floor: in (0, 1]; with 1 only the best pairs are returned.
    """
    corners = boxes.astype(np.float64)
    x = _Side(grid.x, grid.stride, corners[:, 0::2], locations.columns)
    y = _Side(grid.y, grid.stride, corners[:, 1::2], locations.rows)
    area = (x.length * y.length)[:, None] + grid.x.length * grid.y.length  # (O, S)
    best_x, best_y = x.best_overlap(), y.best_overlap()
    overlap = best_x * best_y
    iou = overlap / (area - overlap)
    best = iou.max(axis=1, initial=0)
    least = np.minimum(floor, best) * (1 - MARGIN)
    objects, shapes = np.nonzero((iou >= least[:, None]) & (best > 0)[:, None])
    needed = (least / (1 + least))[objects] * area[objects, shapes]  # overlap of an IoU of `least`
    at = (objects, shapes)
    row, group = _expand(*y.locations(at, needed / best_x[at]))
    objects, shapes, needed = objects[group], shapes[group], needed[group]
    height = y.overlap((objects, shapes), row)
    column, group = _expand(*x.locations((objects, shapes), needed / height))
    objects, shapes, row = objects[group], shapes[group], row[group]
    exact = _exact_iou(grid, boxes[objects], shapes, column, row)
    return Pairs(objects, shapes, column, row, exact)


class _Side:
    """One axis: the objects' extent, and their overlap with the anchors of each shape."""

    def __init__(self, axis: Axis, stride: np.ndarray, extent: np.ndarray, ranges: Ranges) -> None:
        """Store the axis and the objects' extent (O, 2)."""
        self.axis = axis
        self.stride = stride
        self.low, self.high = extent.T
        self.length = self.high - self.low
        self.middle = (self.low + self.high) / 2
        self.ranges = ranges

    def best_overlap(self) -> np.ndarray:
        """Return the largest overlap of each object with an anchor of each shape, (O, S)."""
        ideal = (self.middle[:, None] - self.axis.center) / self.stride  # (O, S)
        first, last = self.ranges
        distance = np.full(ideal.shape, np.inf)
        for nearest in (np.floor(ideal), np.ceil(ideal)):
            location = np.minimum(np.maximum(nearest, first), last)
            distance = np.minimum(distance, np.abs(location - ideal))
        reach = (self.length[:, None] + self.axis.length) / 2 - distance * self.stride
        shorter = np.minimum(self.length[:, None], self.axis.length)
        return np.where(last < first, 0, np.minimum(reach, shorter).clip(min=0))

    def locations(
        self, at: tuple[np.ndarray, np.ndarray], overlap: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Return the first location with an overlap, and the number of them.

        Args:
            at: objects and shapes, (P,) each.
            overlap: (P,), > 0.
        """
        objects, shapes = at
        stride = self.stride[shapes]
        reach = (self.length[objects] + self.axis.length[shapes]) / 2 - overlap
        middle = self.middle[objects] - self.axis.center[shapes]
        first = np.maximum(np.ceil((middle - reach) / stride), self.ranges.first[at])
        last = np.minimum(np.floor((middle + reach) / stride), self.ranges.last[at])
        return first.astype(np.int64), (last - first + 1).clip(min=0).astype(np.int64)

    def overlap(self, at: tuple[np.ndarray, np.ndarray], location: np.ndarray) -> np.ndarray:
        """Return the overlap of some objects with an anchor each, (P,)."""
        objects, shapes = at
        entry = self.axis.start[shapes] + location
        high = np.minimum(self.high[objects], self.axis.high[entry])
        return (high - np.maximum(self.low[objects], self.axis.low[entry])).clip(min=1e-9)


def _expand(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all numbers first[g] .. first[g] + count[g] - 1, and the g of each."""
    group = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(group)) - np.repeat(np.cumsum(count) - count, count)
    return first[group] + within, group


def _exact_iou(
    grid: AnchorGrid, boxes: np.ndarray, shapes: np.ndarray, column: np.ndarray, row: np.ndarray
) -> np.ndarray:
    """Return the IoUs (P,) with the operations of `pairwise_iou`, in its order and precision."""
    at_x, at_y = grid.x.start[shapes] + column, grid.y.start[shapes] + row
    ax1, ax2, ay1, ay2 = grid.x.low[at_x], grid.x.high[at_x], grid.y.low[at_y], grid.y.high[at_y]
    x1, y1, x2, y2 = boxes.T
    width = (np.minimum(x2, ax2) - np.maximum(x1, ax1)).clip(min=0)
    height = (np.minimum(y2, ay2) - np.maximum(y1, ay1)).clip(min=0)
    overlap = width * height
    union = (x2 - x1) * (y2 - y1) + (ax2 - ax1) * (ay2 - ay1) - overlap
    iou: np.ndarray = np.where(overlap > 0, overlap / union, np.float32(0))
    return iou
