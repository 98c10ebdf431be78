"""Kinds of segmentation that a COCO file or a dataset dict may hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

SegmentationKind = Literal["none", "polygons", "rle", "bitmap", "unusable"]

MIN_COORDINATES = 6
"""Minimum length of a polygon: Detectron2's loader drops one of fewer than three points."""


def kind_of_segmentation(segmentation: Any) -> SegmentationKind:
    """
    Return how Detectron2's loader and mapper read a segmentation.

    Returns:
        "polygons": lists of numbers, of which at least one has three points. "rle": a dict with
        a size and counts. "bitmap": a 2D array. "none": missing or empty. "unusable": the loader
        drops the object, or fails.
    """
    if isinstance(segmentation, np.ndarray):
        return "bitmap" if segmentation.ndim == 2 else "unusable"
    if not segmentation:
        return "none"
    if isinstance(segmentation, dict):
        return "rle" if _is_rle(segmentation) else "unusable"
    if not isinstance(segmentation, list) or not all(map(_is_list_of_numbers, segmentation)):
        return "unusable"
    return "polygons" if any(map(is_whole, segmentation)) else "unusable"


def is_whole(polygon: Sequence[float]) -> bool:
    """Return True for three or more points; Detectron2's loader drops other polygons."""
    return len(polygon) % 2 == 0 and len(polygon) >= MIN_COORDINATES


def has_mask(annotation: dict[str, Any]) -> bool:
    """Return True for an object that the mask head can be trained on, and for a crowd region."""
    kind = kind_of_segmentation(annotation.get("segmentation"))
    return kind not in ("none", "unusable") or bool(annotation.get("iscrowd", 0))


def _is_list_of_numbers(polygon: Any) -> bool:
    if isinstance(polygon, np.ndarray):
        return polygon.ndim == 1 and bool(np.isfinite(polygon).all())
    # The sum is finite if all numbers are, and is faster than a test of each.
    return (
        isinstance(polygon, list)
        and set(map(type, polygon)) <= {int, float}
        and math.isfinite(sum(map(float, polygon)))
    )


def _is_rle(value: dict[str, Any]) -> bool:
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list | tuple) or len(size) != 2 or set(map(type, size)) != {int}:
        return False
    if isinstance(counts, list):
        # pycocotools leaves the pixels beyond the last run undefined.
        are_lengths = set(map(type, counts)) == {int} and min(counts) >= 0
        return are_lengths and sum(counts) == size[0] * size[1]
    return isinstance(counts, str | bytes) and len(counts) > 0
