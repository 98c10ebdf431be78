"""Anchor sizes and input sizes at which the anchors reach the objects of a class."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.config import CfgNode

from .anchor_figures import recall
from .anchored_set import AnchoredSet, place_anchors
from .detector import read_detector
from .labeling import best_ious
from .network_frame import FrameSize
from .object_table import ObjectTable

ENOUGH = 0.9
"""Recall at IoU .5 from which on the anchors are no obstacle."""
IMAGES = 500
"""Images of a class that a remedy is tried on."""
FACTORS = (0.75, 1.5, 0.5, 2.0, 3.0, 4.0)
"""Factors of the shorter side that are tried, the nearest one first."""
STEP = 32
"""Input sizes are multiples of it."""
LARGEST = 2000
"""Largest shorter side that is offered, in pixels."""


def remedies_for(data: AnchoredSet, best_iou: np.ndarray, label: int) -> dict[str, Any]:
    """
    Return an anchor size and an input size that make the objects of a class reachable.

    Args:
        data: the dataset and its anchors.
        best_iou: (M,), largest IoU of each object with an anchor.
        label: the class.

    Returns:
        "size", an anchor size to add in pixels, and "short", a shorter side; None where no value
        that was tried has a recall of :data:`ENOUGH` at IoU .5.
    """
    of_class = data.table.classes == label
    missed = of_class & (best_iou < 0.5)
    side = float(np.median(data.frame.sides[missed]))
    some = _some_images(data.table, of_class)
    size = max(round(side), 1)
    grown = read_detector(_with_size(data.detector.cfg, size))
    with_size = place_anchors(grown, some, data.frame.size)
    return {
        "missed_side": side,
        "size": size if _recall(with_size) >= ENOUGH else None,
        "short": next((x for x in _shorts(data) if _recall_at(data, some, x) >= ENOUGH), None),
    }


def _some_images(table: ObjectTable, of_class: np.ndarray) -> ObjectTable:
    """Return the first images of a class, with its objects only."""
    images = np.unique(table.image[of_class])[:IMAGES]
    kept = of_class & np.isin(table.image, images)
    return table._replace(
        file_names=[table.file_names[i] for i in images],
        image_sizes=table.image_sizes[images],
        image=np.searchsorted(images, table.image[kept]),
        boxes=table.boxes[kept],
        classes=table.classes[kept],
    )


def _with_size(cfg: CfgNode, size: int) -> CfgNode:
    """Return a config with one more anchor size, on the level whose sizes are nearest."""
    cfg = cfg.clone()
    cfg.defrost()
    sizes = [list(level) for level in cfg.MODEL.ANCHOR_GENERATOR.SIZES]
    distance = [abs(np.log(np.array(level) / size)).min() for level in sizes]
    sizes[int(np.argmin(distance))].append(size)
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = sizes
    return cfg


def _shorts(data: AnchoredSet) -> list[int]:
    """Return the shorter sides to try."""
    now = data.frame.size.short or int(np.median(data.frame.image_sizes.min(axis=1)))
    shorts = [round(now * factor / STEP) * STEP for factor in FACTORS]
    return [short for short in shorts if STEP <= short <= LARGEST and short != now]


def _recall_at(data: AnchoredSet, table: ObjectTable, short: int) -> float:
    size = FrameSize(short, max(data.frame.size.longest, 2 * short))
    return _recall(place_anchors(data.detector, table, size))


def _recall(data: AnchoredSet) -> float:
    found = recall(best_ious(data)[data.table.is_object])["0.5"]
    return found or 0.0
