"""
Figures of the sizes of objects, in pixels of the file and of the network's input.

Shape shorthand:
    M: number of annotations
    K: number of classes
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .anchored_set import AnchoredSet
from .neighbors import has_neighbor
from .summaries import by_class, quantiles, share

AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
"""Areas of COCO's sizes in square pixels: the lower bound counts, the upper one does not."""
AT_BORDER = 1.0
"""Distance in pixels from which on a box is not cut off by the border."""
DUPLICATE = 0.95
"""IoU of two objects of a class that are one object."""


def size_facts(data: AnchoredSet, num_classes: int) -> dict[str, Any]:
    """Return the figures of the sizes of all objects, and of each class."""
    table, grid = data.table, data.grid
    is_object = table.is_object
    side = data.frame.sides[is_object]
    largest = np.sqrt(grid.x.length * grid.y.length).max()
    flags = {
        "below_finest_stride": side < min(data.detector.strides),
        "above_largest_anchor": side > largest,
        "cut_off": is_cut_off(data)[is_object],
        "duplicate": has_neighbor(table, iou=DUPLICATE)[is_object],
    }
    classes = table.classes[is_object]
    sides = by_class(side, classes, num_classes)
    of_class = {
        name: [share(x) for x in by_class(mask, classes, num_classes)]
        for name, mask in flags.items()
    }
    return {
        "finest_stride": min(data.detector.strides),
        "largest_anchor": float(largest),
        "side": quantiles(side, 5, 50, 95),
        "coco_sizes": {
            "original": _coco_sizes(original_areas(data)[is_object]),
            "network": _coco_sizes(side**2),
        },
        **{name: share(mask) for name, mask in flags.items()},
        "per_class": [
            {
                "side": quantiles(sides[c], 5, 50, 95),
                **{name: values[c] for name, values in of_class.items()},
            }
            for c in range(num_classes)
        ],
    }


def original_areas(data: AnchoredSet) -> np.ndarray:
    """Return the areas of the boxes in square pixels of the file, (M,)."""
    boxes = data.table.boxes
    areas: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def coco_size(areas: np.ndarray) -> dict[str, np.ndarray]:
    """Return the mask of each of COCO's sizes."""
    return {name: (low <= areas) & (areas < high) for name, (low, high) in AREAS.items()}


def is_cut_off(data: AnchoredSet) -> np.ndarray:
    """Return the mask of the boxes within a pixel of the border of their image file, (M,)."""
    boxes = data.table.boxes
    limits = data.table.image_sizes[data.table.image][:, ::-1] - AT_BORDER  # width, height
    touching: np.ndarray = np.any((boxes[:, :2] <= AT_BORDER) | (boxes[:, 2:] >= limits), axis=1)
    return touching


def _coco_sizes(areas: np.ndarray) -> dict[str, float | None]:
    return {name: share(mask) for name, mask in coco_size(areas).items()}
