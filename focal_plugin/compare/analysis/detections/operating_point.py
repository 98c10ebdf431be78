"""
Precision, recall and F1 at the score threshold with the largest F1.

A threshold that is chosen on the images on which it is scored is too good. So the images are split
into two halves. Each half is scored with the threshold that is best on the other one, and the
counts of both halves are added up (Forman and Scholz, Apples-to-Apples in Cross-Validation
Studies, SIGKDD Explorations 12, 2010).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ....score_thresholds import best_f1
from .counted import CountedDetections

SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class CrossThresholds:
    """
    Score thresholds of two halves of the images, each chosen on the other half.

    Infinity stands for no threshold: the detections of the other half are all false.

    Attributes:
        together: (2,) thresholds of all classes together.
        by_class: (2, K) thresholds of each class. A class without a correct detection on the other
            half has the threshold of all classes together.
    """

    together: np.ndarray
    by_class: np.ndarray


class Scored(NamedTuple):
    """
    Precision, recall and F1 of detections, fractions.

    Attributes:
        precision: NaN without detections.
        recall, f1: NaN without objects.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def half_of_images(images: int) -> np.ndarray:
    """
    Return (I,) the half, 0 or 1, of each image.

    The split depends only on the number of images, so it is the same for all runs of a comparison.
    """
    half = np.zeros(images, dtype=int)
    half[np.random.default_rng(SPLIT_SEED).permutation(images)[: images // 2]] = 1
    return half


def cross_thresholds(found: CountedDetections, half: np.ndarray) -> CrossThresholds:
    """
    Return the F1-best thresholds of each half of the images, chosen on the other half.

    Args:
        found: detections of a run.
        half: (I,) half of each image, 0 or 1.
    """
    together, by_class = np.empty(2), np.empty((2, found.classes))
    for scored in (0, 1):
        chooses = half[found.image] != scored
        objects = np.bincount(
            found.object_category[half[found.object_image] != scored], minlength=found.classes
        )
        together[scored] = _best(found.score, found.right, chooses, int(objects.sum()), np.inf)
        for k, rows in enumerate(found.of_class):
            parts = (found.score[rows], found.right[rows], chooses[rows])
            by_class[scored, k] = _best(*parts, int(objects[k]), together[scored])
    return CrossThresholds(together, by_class)


def shown_detections(
    found: CountedDetections, half: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """
    Return (M,) True for the detections at or above the threshold of their half and class.

    Args:
        half: (I,) half of each image, 0 or 1.
        thresholds: (2,) or (2, K), see :class:`CrossThresholds`.
    """
    of_half = half[found.image]
    if thresholds.ndim == 1:
        return found.score >= thresholds[of_half]
    return found.score >= thresholds[of_half, found.category]


def score_detections(
    correct: np.ndarray | int, shown: np.ndarray | int, objects: np.ndarray | int
) -> Scored:
    """
    Return precision, recall and F1 = 2 correct / (shown + objects).

    Args:
        correct: number of correct detections, of any shape.
        shown: number of detections, of the same shape.
        objects: number of objects, of the same shape.
    """
    correct, shown, objects = (np.asarray(n, dtype=float) for n in (correct, shown, objects))
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(objects > 0, 2 * correct / (shown + objects), np.nan)
        return Scored(correct / shown, correct / objects, f1)


def mean_threshold(thresholds: np.ndarray) -> np.ndarray:
    """Return the mean of the finite thresholds over the halves, the first axis; NaN for none."""
    finite = np.isfinite(thresholds)
    with np.errstate(invalid="ignore"):
        return np.where(finite, thresholds, 0.0).sum(axis=0) / finite.sum(axis=0)


def _best(
    score: np.ndarray, right: np.ndarray, chooses: np.ndarray, objects: int, otherwise: float
) -> float:
    best = best_f1(score[chooses], right[chooses], objects)
    return otherwise if best is None else best.score
