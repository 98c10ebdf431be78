"""Pairs of objects of one class in one image with a large IoU."""

from __future__ import annotations

import numpy as np

from .object_table import ObjectTable

PAIRS_AT_ONCE = 100_000
"""Number of pairs that are compared together."""


def has_neighbor(table: ObjectTable, *, iou: float) -> np.ndarray:
    """
    Return the mask of the objects that overlap another one of their class and image, (M,).

    Args:
        table: M annotations; crowd regions have no neighbors.
        iou: in (0, 1]; a pair counts if its IoU is at least that.
    """
    objects = np.flatnonzero(table.is_object)
    boxes = table.boxes[objects]
    order = np.lexsort((boxes[:, 0], table.classes[objects], table.image[objects]))
    objects, boxes = objects[order], boxes[order]
    ends = _end_of_window(table, objects, boxes, iou)
    y, height = boxes[:, 1], boxes[:, 3] - boxes[:, 1]
    reach = (1 / iou - 1) * height + 1e-9 * height.max(initial=0)  # the other is 1 / iou as high
    counts = ends - np.arange(len(objects)) - 1
    found = np.zeros(len(table.classes), dtype=bool)
    for first, stop in _parts(counts):
        left = np.repeat(np.arange(first, stop), counts[first:stop])
        before = np.cumsum(counts[first:stop]) - counts[first:stop]
        right = left + 1 + np.arange(len(left)) - np.repeat(before, counts[first:stop])
        close = np.abs(y[left] - y[right]) <= reach[left]
        left, right = left[close], right[close]
        near = _iou(boxes[left], boxes[right]) >= iou
        found[objects[left[near]]] = found[objects[right[near]]] = True
    return found


def _end_of_window(
    table: ObjectTable, objects: np.ndarray, boxes: np.ndarray, iou: float
) -> np.ndarray:
    """
    Return the end of the objects after each one that may be near enough, (objects,).

    In a pair of that IoU, the overlap has at least the share ``iou`` of the width of either box.
    """
    new_group = np.diff(table.image[objects], prepend=-1) != 0
    new_group |= np.diff(table.classes[objects], prepend=-1) != 0
    group = np.cumsum(new_group)
    span = boxes[:, 0].max(initial=0) - boxes[:, 0].min(initial=0) + 1
    width = boxes[:, 2] - boxes[:, 0]
    position = boxes[:, 0] + 2 * span * group  # groups are further apart than any box is wide
    window = np.minimum((1 - iou) * width * (1 + 1e-9), span) + 1e-6 * span
    return np.searchsorted(position, position + window, side="right")


def _parts(counts: np.ndarray) -> list[tuple[int, int]]:
    """Split objects into ranges with about :data:`PAIRS_AT_ONCE` pairs."""
    before = np.cumsum(counts) - counts
    parts = []
    first = 0
    while first < len(counts):
        stop = int(np.searchsorted(before, before[first] + PAIRS_AT_ONCE))
        stop = max(stop, first + 1)
        parts.append((first, stop))
        first = stop
    return parts


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU of pairs of boxes, (n, 4) each; 0 for two empty boxes."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.T, b.T
    width, height = (
        (np.minimum(high, other_high) - np.maximum(low, other_low)).clip(min=0)
        for low, high, other_low, other_high in [(ax1, ax2, bx1, bx2), (ay1, ay2, by1, by2)]
    )
    overlap = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap
    iou: np.ndarray = np.divide(overlap, union, out=np.zeros_like(union), where=union > 0)
    return iou
