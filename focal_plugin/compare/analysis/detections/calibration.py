"""
Calibration of scores: reliability, D-ECE and LaECE0.

    D-ECE  = sum over bins j of |D_j| / |D|  abs(precision_j - mean score_j)
    LaECE0 = mean over classes of sum over bins j of |D_j| / |D|  abs(mean IoU_j - mean score_j)

D are the detections with a score of at least :data:`CALIBRATION_SCORE`, and D_j those in bin j.
D-ECE is the variant of Kueppers et al. (arXiv:2004.13546) with bins of the score alone, and has the
matches of COCO at IoU .5. LaECE0 is that of Kuzucu et al. (arXiv:2405.20459), from LaECE
(arXiv:2307.00934): any overlap is a match, and the target of a score is the IoU with the matched
object, 0 without one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .average_precision import Evaluation
from .counted import CountedDetections
from .match_boxes import any_overlap

BINS = 25
CALIBRATION_SCORE = 0.05
"""
Lowest score of the detections whose calibration counts.

It is Detectron2's default of `SCORE_THRESH_TEST`. Below it are most detections of an uncut list,
nearly all of them false. They would make the error of an arm smaller, the more of them it has.
"""


@dataclass(frozen=True, eq=False)
class Reliability:
    """
    Detections in bins of their score, from 0 to 1.

    Attributes:
        count: (BINS,) number of detections.
        score: (BINS,) sum of their scores.
        target: (BINS,) sum of what the scores should be.
    """

    count: np.ndarray
    score: np.ndarray
    target: np.ndarray


@dataclass(frozen=True, eq=False)
class Calibration:
    """
    Calibration of one run with K classes, fractions; NaN if no detection counts.

    Attributes:
        reliability: all classes together; the targets are 1 for correct detections, else 0.
        d_ece: error of all classes together.
        bias: mean score minus precision of all classes together.
        d_ece_of_class: (K,) error of each class.
        laece0: mean of ``laece0_of_class``.
        laece0_of_class: (K,) error of each class.
    """

    reliability: Reliability
    d_ece: float
    bias: float
    d_ece_of_class: np.ndarray
    laece0: float
    laece0_of_class: np.ndarray


def calibration(evaluation: Evaluation, found: CountedDetections) -> Calibration:
    """
    Return the calibration of a run. All errors are NaN if a score is above 1.

    Args:
        evaluation: matched detections of a run.
        found: its detections that count.
    """
    rows = np.flatnonzero(found.score >= CALIBRATION_SCORE)
    score, category = found.score[rows], found.category[rows]
    if len(score) and score.max() > 1:
        rows, score, category = rows[:0], score[:0], category[:0]
    right = found.right[rows].astype(float)
    iou = any_overlap(evaluation.ground_truth, evaluation.detections, found.detection[rows])
    together = reliability(score, right)
    d_ece_of_class = np.full(found.classes, np.nan)
    laece0_of_class = np.full(found.classes, np.nan)
    for k in np.unique(category):
        own = slice(*np.searchsorted(category, [k, k + 1]))
        d_ece_of_class[k] = calibration_error(reliability(score[own], right[own]))
        laece0_of_class[k] = calibration_error(reliability(score[own], iou[own]))
    classes = laece0_of_class[~np.isnan(laece0_of_class)]
    nothing = float("nan")
    return Calibration(
        reliability=together,
        d_ece=calibration_error(together),
        bias=float((score - right).mean()) if len(score) else nothing,
        d_ece_of_class=d_ece_of_class,
        laece0=float(classes.mean()) if len(classes) else nothing,
        laece0_of_class=laece0_of_class,
    )


def reliability(score: np.ndarray, target: np.ndarray) -> Reliability:
    """
    Return the detections in bins of equal width; a score on a limit is in the upper bin.

    Args:
        score: (N,) scores in [0, 1].
        target: (N,) what the score should be, in [0, 1].
    """
    place = np.minimum(np.searchsorted(bin_limits(), score, side="right") - 1, BINS - 1)
    sums = (np.bincount(place, weights, BINS) for weights in (None, score, target))
    return Reliability(*sums)


def bin_limits() -> np.ndarray:
    """Return (BINS + 1,) the limits of the bins."""
    return np.arange(BINS + 1) / BINS


def calibration_error(found: Reliability) -> float:
    """Return the mean distance of score and target over the bins, by detections; NaN for none."""
    total = found.count.sum()
    return float(np.abs(found.target - found.score).sum() / total) if total else float("nan")
