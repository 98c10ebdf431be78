"""Differences to the reference by object size, a secondary analysis as those by class."""

from __future__ import annotations

import math

import numpy as np

from .detection_analysis import DetectionAnalysis
from .paired import Compared, by_arm, number_of
from .scores import Standing

SIZES = ("APs", "APm", "APl", "AR")


def size_differences(
    detections: DetectionAnalysis, standing: Standing, reference: str
) -> dict[str, dict[str, Compared]]:
    """
    Return arm -> each of :data:`SIZES` -> its average in percent, compared with the reference.

    A run that detected nothing counts as 0, unless no object has this size. There is no entry if no
    run is done.

    Args:
        detections: analysis of the detections of all arms.
        standing: scores of the same runs.
        reference: one of the arms.
    """
    spreads = {
        scores.arm: [
            *(scores.metrics[size] for size in SIZES[:-1]),
            detections.arms[scores.arm].recall,
        ]
        for scores in standing.arms
    }
    exists = [any(of_arm[i].n for of_arm in spreads.values()) for i in range(len(SIZES))]

    def numbers(arm: str, seed: int) -> np.ndarray:
        values = (spread.by_seed.get(seed, math.nan) for spread in spreads[arm])
        return np.array([number_of(v, at) for v, at in zip(values, exists, strict=True)])

    values = {
        arm: {seed: numbers(arm, seed) for seed in of_arm[0].by_seed}
        for arm, of_arm in spreads.items()
    }
    if not any(values.values()):
        return {}
    return {
        arm: dict(zip(SIZES, found, strict=True))
        for arm, found in by_arm(values, reference).items()
    }
