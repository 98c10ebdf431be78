"""Differences to the reference by object size, a secondary analysis as those by class."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .paired import Compared, by_arm
from .scores import NO_PREDICTIONS, Spread, Standing

SIZES = ("APs", "APm", "APl", "AR")


def size_differences(
    standing: Standing, recall: Mapping[str, Spread], reference: str
) -> dict[str, dict[str, Compared]]:
    """
    Return arm -> each of :data:`SIZES` -> its average in percent, compared with the reference.

    A run that detected nothing counts as 0, unless no object has this size. There is no entry if no
    run is done.

    Args:
        standing: scores of all arms.
        recall: arm -> AR of all sizes.
        reference: one of the arms.
    """
    spreads = {
        scores.arm: [*(scores.metrics[size] for size in SIZES[:-1]), recall[scores.arm]]
        for scores in standing.arms
    }
    exists = [any(of_arm[i].n for of_arm in spreads.values()) for i in range(len(SIZES))]

    def numbers(arm: str, seed: int) -> np.ndarray:
        values = (spread.by_seed.get(seed, math.nan) for spread in spreads[arm])
        return np.array([_number(v, at) for v, at in zip(values, exists, strict=True)])

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


def _number(value: float | str, has_objects: bool) -> float:
    if value == NO_PREDICTIONS and has_objects:
        return 0.0
    return math.nan if isinstance(value, str) else value
