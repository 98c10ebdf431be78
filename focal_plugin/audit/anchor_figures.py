"""
Figures of the anchors: which objects they reach, and how many are positive for each.

Shape shorthand:
    M: number of annotations
    K: number of classes
    L: number of feature levels
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .anchored_set import AnchoredSet
from .labeling import Labeling
from .size_figures import coco_size
from .summaries import by_class, quantiles, ratio, share

RECALL_AT = (0.4, 0.5, 0.7)
"""IoUs at which the recall of the anchors is stated."""


def anchor_facts(data: AnchoredSet, labeling: Labeling, num_classes: int) -> dict[str, Any]:
    """Return the figures of the anchors over all objects, by class and by size."""
    is_object = data.table.is_object
    classes = data.table.classes[is_object]
    found = labeling.of(is_object)
    sizes = coco_size(data.frame.sides[is_object] ** 2)
    levels = found.positives.sum(axis=0)
    return {
        **_facts_of(found, np.arange(len(classes))),
        "levels": list(data.detector.levels),
        "positives_by_level": _shares(levels),
        "unused_levels": [
            name for name, n in zip(data.detector.levels, levels, strict=True) if n == 0
        ],
        "per_class": _per_class(found, classes, num_classes),
        "per_size": {name: _facts_of(found, np.flatnonzero(mask)) for name, mask in sizes.items()},
    }


def recall_facts(best_iou: np.ndarray, classes: np.ndarray, num_classes: int) -> dict[str, Any]:
    """
    Return the recall of the anchors, of all objects and of each class.

    Args:
        best_iou: (objects,), largest IoU of each object with an anchor.
        classes: (objects,), their classes.
    """
    return {
        "recall": recall(best_iou),
        "per_class": [recall(values) for values in by_class(best_iou, classes, num_classes)],
    }


def recall(best_iou: np.ndarray) -> dict[str, float | None]:
    """Return the share of objects with an anchor of IoU .4, .5 and .7."""
    return {f"{iou:g}": share(best_iou >= np.float32(iou)) for iou in RECALL_AT}


def _per_class(found: Labeling, classes: np.ndarray, num_classes: int) -> list[dict[str, Any]]:
    total = found.positives.sum()
    rows = []
    for objects in by_class(np.arange(len(classes)), classes, num_classes):
        positives = found.positives[objects].sum(axis=0)
        of_positives = ratio(positives.sum(), total)
        of_objects = ratio(len(objects), len(classes))
        rows.append(
            {
                **_facts_of(found, objects),
                "share_of_positives": of_positives,
                "positives_over_objects": ratio(of_positives or 0, of_objects or 0),
                "positives_by_level": _shares(positives),
            }
        )
    return rows


def _facts_of(found: Labeling, objects: np.ndarray) -> dict[str, Any]:
    """Return the figures of some objects."""
    best, positives = found.best_iou[objects], found.positives[objects].sum(axis=1)
    forced = found.forced[objects]
    return {
        "objects": len(objects),
        "best_iou": quantiles(best, 5, 50),
        "recall": recall(best),
        "positives": int(positives.sum()),
        "positives_per_object": quantiles(positives, 5, 50, 95),
        "positives_per_object_by_iou": quantiles(positives - forced, 5, 50, 95),
        "without_positives": share(positives == 0),
        "without_positives_by_iou": share(positives == forced),
        "forced": ratio(forced.sum(), positives.sum()),
        "stolen": share(found.stolen[objects]),
    }


def _shares(counts: np.ndarray) -> list[float] | None:
    total = counts.sum()
    return (counts / total).tolist() if total else None
