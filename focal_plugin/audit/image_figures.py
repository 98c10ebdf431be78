"""Figures of the images: how many objects they have, and how much of them is a crowd."""

from __future__ import annotations

from typing import Any

import numpy as np

from .object_table import ObjectTable
from .summaries import quantiles, share


def image_facts(table: ObjectTable) -> dict[str, Any]:
    """Return the figures of the images."""
    num_images = len(table.file_names)
    objects = np.bincount(table.image[table.is_object], minlength=num_images)
    crowds = covered_by_crowds(table)
    return {
        "images": num_images,
        "objects": int(table.is_object.sum()),
        "crowds": int((~table.is_object).sum()),
        "objects_per_image": quantiles(objects, 50, 95, 100),
        "empty": share(objects == 0),
        "crowd_area": quantiles(crowds, 50, 95, 100),
    }


def covered_by_crowds(table: ObjectTable) -> np.ndarray:
    """Return the share of each image inside its crowd regions, to the next pixel, (images,)."""
    covered = np.zeros(len(table.file_names))
    crowds = np.flatnonzero(~table.is_object)
    for image in np.unique(table.image[crowds]):
        height, width = table.image_sizes[image]
        boxes = table.boxes[crowds[table.image[crowds] == image]]
        corners = np.round(boxes).clip(0, [width, height, width, height]).astype(np.int64)
        covered[image] = _area_of_union(corners) / (height * width)
    return covered


def _area_of_union(boxes: np.ndarray) -> int:
    """Return the area of the union of boxes with integer corners, (n, 4), XYXY."""
    xs, x = np.unique(boxes[:, 0::2], return_inverse=True)
    ys, y = np.unique(boxes[:, 1::2], return_inverse=True)
    (x1, x2), (y1, y2) = x.reshape(-1, 2).T, y.reshape(-1, 2).T
    change = np.zeros((len(ys), len(xs)), dtype=np.int64)
    for row, column, sign in [(y1, x1, 1), (y1, x2, -1), (y2, x1, -1), (y2, x2, 1)]:
        np.add.at(change, (row, column), sign)
    inside = change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    return int((inside * np.diff(ys)[:, None] * np.diff(xs)).sum())
