"""
Optimal localisation recall precision error (oLRP) with its components.

    LRP(s) = (sum over TP of (1 - IoU) / (1 - tau) + FP + FN) / (TP + FP + FN)
    oLRP = min over the score thresholds s of LRP(s)

Sources: Oksuz et al., arXiv:1807.01696, equations 2 to 4, and arXiv:2009.13807.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TAU = 0.5
"""IoU from which on a detection is correct."""


class OptimalLRP(NamedTuple):
    """
    Optimal LRP of one class; fractions, 0 is best.

    Attributes:
        error: oLRP, at most 1.
        localisation: mean of 1 - IoU over the correct detections; NaN for none.
        false_positives: 1 - precision; NaN for no detections.
        false_negatives: 1 - recall.
    """

    error: float
    localisation: float
    false_positives: float
    false_negatives: float


NO_OBJECTS = OptimalLRP(*[float("nan")] * 4)
NOTHING_FOUND = OptimalLRP(1.0, float("nan"), float("nan"), 1.0)


def optimal_lrp(score: np.ndarray, iou: np.ndarray, objects: int) -> OptimalLRP:
    """
    Return the smallest LRP error over all score thresholds, at tau = .5.

    Ties go to the highest threshold. Detections of equal score pass a threshold together.

    Args:
        score: (N,) scores, highest first.
        iou: (N,) IoU with the object that the detection finds; 0 for a false detection.
        objects: number of objects, >= the number of correct detections.

    Returns:
        1 if no detection is correct; NaN without objects.
    """
    if not objects:
        return NO_OBJECTS
    right = iou > 0
    if not right.any():
        return NOTHING_FOUND
    shown = np.arange(1, len(score) + 1)
    correct = np.cumsum(right)
    off = np.cumsum(np.where(right, 1 - iou, 0.0))
    # TP + FP + FN = detections + objects - TP; FP + FN = detections + objects - 2 TP
    error = (off / (1 - TAU) + shown + objects - 2 * correct) / (shown + objects - correct)
    last = np.flatnonzero(np.append(score[1:] < score[:-1], True))
    best = last[error[last].argmin()]
    if not correct[best]:  # false detections alone have the error of no detection
        return NOTHING_FOUND
    return OptimalLRP(
        float(error[best]),
        float(off[best] / correct[best]),
        float(1 - correct[best] / shown[best]),
        float(1 - correct[best] / objects),
    )
