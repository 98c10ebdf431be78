"""Confusion matrix of the detections of a run, with background, and detections without objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask

from .average_precision import Evaluation
from .coco_json import GroundTruth
from .counted import CountedDetections

CONFUSION_IOU = 0.5


@dataclass(frozen=True, eq=False)
class Confusion:
    """
    Cells of a confusion matrix that are not 0, in the order of rows and columns.

    Attributes:
        true: (C,) class of the objects; K for background.
        predicted: (C,) class of the detections; K for missed objects.
        count: (C,) number of objects or detections.
    """

    true: np.ndarray
    predicted: np.ndarray
    count: np.ndarray


def confusion(evaluation: Evaluation, found: CountedDetections, shown: np.ndarray) -> Confusion:
    """
    Count which class the detections give to which objects.

    First, the matches of COCO stay: a detection that finds an object of its class is on the
    diagonal. So the diagonal has the correct detections of precision and recall. Then, from the
    highest score to the lowest, each other detection takes the free object of its image with the
    largest IoU, if that is at least .5. Detections that are left found background. Objects that are
    left are missed.

    Args:
        evaluation: matched detections of a run.
        found: its detections that count.
        shown: (M,) True for the detections above their threshold.
    """
    truth, detections = evaluation.ground_truth, evaluation.detections
    background = found.classes
    taken = truth.crowd.copy()  # a crowd is no object
    object_of = np.where(shown, found.object, -1)
    taken[object_of[object_of >= 0]] = True
    for rows, free in _left(found, shown & (object_of < 0), truth, taken):
        iou = mask.iou(detections.box[found.detection[rows]], truth.box[free], [0] * len(free))
        for place in np.argsort(-found.score[rows], kind="stable"):
            best = int(iou[place].argmax())
            if iou[place, best] >= CONFUSION_IOU:
                object_of[rows[place]] = free[best]
                iou[:, best] = -1.0
    hit = shown & (object_of >= 0)
    taken[object_of[hit]] = True
    missed = truth.category[~taken]
    false = found.category[shown & ~hit]
    true = np.concatenate([truth.category[object_of[hit]], missed, np.full(len(false), background)])
    predicted = np.concatenate([found.category[hit], np.full(len(missed), background), false])
    cells, count = np.unique(true.astype(int) * (background + 1) + predicted, return_counts=True)
    return Confusion(*np.divmod(cells, background + 1), count)


def images_without_objects(truth: GroundTruth) -> np.ndarray:
    """Return (I,) True for images without any annotation, crowds included."""
    return np.bincount(truth.image, minlength=len(truth.image_ids)) == 0


def _left(
    found: CountedDetections, left: np.ndarray, truth: GroundTruth, taken: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the detections and the objects that are left, for each image that has both."""
    rows, free = np.flatnonzero(left), np.flatnonzero(~taken)
    rows = rows[np.argsort(found.image[rows], kind="stable")]
    free = free[np.argsort(truth.image[free], kind="stable")]
    both = np.intersect1d(found.image[rows], truth.image[free])
    of_rows = [np.searchsorted(found.image[rows], both, side) for side in ("left", "right")]
    of_free = [np.searchsorted(truth.image[free], both, side) for side in ("left", "right")]
    return [(rows[a:b], free[c:d]) for a, b, c, d in zip(*of_rows, *of_free, strict=True)]
