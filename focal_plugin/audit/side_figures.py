"""
Histogram of the sides of objects in pixels of the network's input, with the objects reached.

Shape shorthand:
    B: number of bins
    K: number of classes
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .anchored_set import AnchoredSet

PER_OCTAVE = 4
"""Bins for each doubling of the side."""
REACHED = 0.5
"""IoU with an anchor from which on an object is reached."""


def side_facts(data: AnchoredSet, best_iou: np.ndarray, num_classes: int) -> dict[str, Any]:
    """
    Return how many objects of each class have a side, and how many of them an anchor reaches.

    Args:
        data: the dataset and its anchors.
        best_iou: (M,), largest IoU of each annotation with an anchor.
        num_classes: K.

    Returns:
        `edges`, B + 1 sides in pixels, and in `per_class` the `objects` and the `reached` ones of
        each bin, B numbers each. A side below a pixel counts as one pixel, and an empty box not at
        all. No objects: no bins.
    """
    objects = data.table.is_object & (data.frame.sides > 0)
    side, classes = data.frame.sides[objects].clip(min=1), data.table.classes[objects]
    place = np.floor(PER_OCTAVE * np.log2(side)).astype(np.int64)
    first, stop = (int(place.min()), int(place.max()) + 1) if len(place) else (0, 0)
    bins = stop - first
    counts = np.zeros((2, num_classes, bins), dtype=np.int64)
    np.add.at(counts[0], (classes, place - first), 1)
    np.add.at(counts[1], (classes, place - first), best_iou[objects] >= np.float32(REACHED))
    edges = 2.0 ** (np.arange(first, stop + 1) / PER_OCTAVE) if bins else np.zeros(0)
    return {
        "edges": edges.tolist(),
        "per_class": [
            {"objects": of_class.tolist(), "reached": reached.tolist()}
            for of_class, reached in zip(*counts, strict=True)
        ],
    }
