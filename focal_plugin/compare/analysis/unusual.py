"""Signs that the differences of an arm do not vary as a t test assumes: outliers and skew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

OUTLIER_SCORE = 3.5
"""Modified z-score above which a value is an outlier (Iglewicz and Hoaglin 1993)."""
FEWEST_FOR_OUTLIERS = 5
FEWEST_FOR_SKEW = 8
SKEW_ERRORS = 2.0
"""Standard errors of a skewness that a normal distribution would exceed 5 times in 100."""


@dataclass(frozen=True)
class Unusual:
    """
    Unusual differences of one arm to the reference.

    Attributes:
        outliers: seeds whose value is far from the others.
        skewness: skewness of the values; None unless it is larger than chance.
    """

    arm: str
    outliers: tuple[int, ...]
    skewness: float | None


def unusual_values(arm: str, values: Mapping[int, float]) -> Unusual | None:
    """
    Return the outliers and the skew of the differences of an arm; None if there is neither.

    A value x is an outlier if its modified z-score is above 3.5. MAD is the median absolute
    deviation from the median:

        z = .6745 abs(x - median) / MAD

    The skewness G1 is adjusted for the sample size. It is larger than chance if it is more than two
    of its standard errors from 0. In simulations, a skewed arm beside a tight reference raises the
    rate of false differences from 5 to 7 in 100 for one arm, and to 11 for seven.

    Source: B. Iglewicz, D. Hoaglin, How to Detect and Handle Outliers, 1993.

    Args:
        values: seed -> difference. Fewer than 5 have no outliers, and fewer than 8 no skew.
    """
    numbers = np.array(list(values.values()), dtype=np.float64)
    outliers = _outliers(tuple(values), numbers)
    skewness = _skewness(numbers)
    if not outliers and skewness is None:
        return None
    return Unusual(arm, outliers, skewness)


def _outliers(seeds: tuple[int, ...], numbers: np.ndarray) -> tuple[int, ...]:
    if len(numbers) < FEWEST_FOR_OUTLIERS:
        return ()
    distance = np.abs(numbers - np.median(numbers))
    deviation = float(np.median(distance))
    if not deviation:
        return ()
    far = 0.6745 * distance / deviation > OUTLIER_SCORE
    return tuple(seed for seed, is_far in zip(seeds, far, strict=True) if is_far)


def _skewness(numbers: np.ndarray) -> float | None:
    n = len(numbers)
    centered = numbers - numbers.mean() if n else numbers
    if n < FEWEST_FOR_SKEW or not np.any(centered):
        return None
    g1 = float(np.mean(centered**3) / np.mean(centered**2) ** 1.5)
    skewness = g1 * math.sqrt(n * (n - 1)) / (n - 2)
    error = math.sqrt(6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3)))
    return skewness if abs(skewness) > SKEW_ERRORS * error else None
