"""
Score thresholds with the largest F1, for each class, as a run leaves them beside its detections.

    F1 = 2 TP / (2 TP + FP + FN) = 2 TP / (detections + objects)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class BestF1(NamedTuple):
    """Threshold with the largest F1, and what the detections with at least this score reach."""

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ClassThreshold:
    """
    Threshold of one class on a test set.

    Attributes:
        name: name of the class.
        objects: objects of the class, without crowds.
        score, precision, recall, f1: see :class:`BestF1`. None if no detection is correct.
    """

    name: str
    objects: int
    score: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None

    @classmethod
    def of(cls, name: str, objects: int, best: BestF1 | None) -> ClassThreshold:
        """Return the threshold of a class; ``best`` is the result of :func:`best_f1`."""
        return cls(name, objects, *(best or ()))


@dataclass(frozen=True)
class ScoreThresholds:
    """
    Thresholds of a run on one test set; the content of `score_thresholds.json`.

    Attributes:
        test_set: name of the dataset.
        iou: IoU from which on a detection is correct.
        together: the threshold of all classes together.
        classes: one entry for each class, in the order of the class indices.
    """

    test_set: str
    iou: float
    together: ClassThreshold
    classes: tuple[ClassThreshold, ...]


def best_f1(score: np.ndarray, right: np.ndarray, objects: int) -> BestF1 | None:
    """
    Return the score threshold with the largest F1.

    Ties go to the highest threshold. Detections of equal score pass a threshold together.

    Args:
        score: (N,) scores, in any order.
        right: (N,) True for correct detections, at most one for each object.
        objects: number of objects, >= the number of correct detections.

    Returns:
        None if no detection is correct.
    """
    if not right.any():
        return None
    order = np.argsort(-score, kind="stable")
    score, found = score[order], np.cumsum(right[order])
    shown = np.arange(1, len(score) + 1)
    last = np.flatnonzero(np.append(score[1:] < score[:-1], True))
    f1 = 2 * found[last] / (shown[last] + objects)
    best = last[f1.argmax()]
    return BestF1(
        float(score[best]),
        float(found[best] / shown[best]),
        float(found[best] / objects),
        float(f1.max()),
    )
