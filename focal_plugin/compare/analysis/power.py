"""Number of seeds that a difference of a given size requires."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from ..plan.design import FEWEST_SEEDS, POWER
from .statistics import ALPHA

MAX_SEEDS = 1000


@dataclass(frozen=True)
class Recommendation:
    """
    Recommended number of seeds.

    Attributes:
        seeds: fewest seeds with the requested power; None if above :data:`MAX_SEEDS`.
        power: power with that number of seeds.
    """

    seeds: int | None
    power: float


def paired_t_power(
    n: int | np.ndarray, effect: float, std: float, *, alpha: float = ALPHA
) -> np.ndarray:
    """
    Return the probability that a two-sided paired t test finds a difference with the right sign.

        P(T > t_{1 - alpha/2, n-1}),   T ~ noncentral t(n - 1, sqrt(n) effect / std)

    Args:
        n: number of seeds, any shape, >= 2.
        effect: true difference, > 0.
        std: standard deviation of the differences between seeds, ddof 1, in the unit of
            ``effect``, >= 0.
        alpha: significance level. For k comparisons with Holm it is ALPHA / k, the first step.

    Returns:
        Power, in the shape of ``n``.

    Raises:
        ValueError: n < 2, effect <= 0, std < 0 or alpha outside (0, 1).
    """
    n = np.asarray(n)
    if np.any(n < 2) or not effect > 0 or not std >= 0 or not 0 < alpha < 1:
        raise ValueError(
            f"expected n >= 2, effect > 0, std >= 0 and 0 < alpha < 1, "
            f"got {n}, {effect}, {std}, {alpha}"
        )
    if std == 0:
        return np.ones(n.shape)
    # `scipy.stats` takes a second to import
    needed = special.stdtrit(n - 1, 1 - alpha / 2)
    return 1 - special.nctdtr(n - 1, np.sqrt(n) * effect / std, needed)


def recommend_seeds(
    std_of_differences: float,
    effect: float = 1.0,
    power: float = POWER,
    comparisons: int = 1,
    alpha: float = ALPHA,
) -> Recommendation:
    """
    Return the fewest seeds at which a verdict finds ``effect`` with probability ``power``.

    The number is at least :data:`~..plan.design.FEWEST_SEEDS`, because fewer seeds give no verdict.

    Args:
        std_of_differences: standard deviation of the differences between seeds, AP in percent.
        effect: difference to find, AP in percent.
        power: requested power, in (0, 1).
        comparisons: number of arms that are compared with the reference, >= 1.
        alpha: significance level of all comparisons together.

    Raises:
        ValueError: an argument is outside its range.
    """
    if comparisons < 1 or not 0 < power < 1:
        raise ValueError(f"expected comparisons >= 1 and 0 < power < 1, got {comparisons}, {power}")
    counts = np.arange(FEWEST_SEEDS, MAX_SEEDS + 1)
    powers = paired_t_power(counts, effect, std_of_differences, alpha=alpha / comparisons)
    enough = np.flatnonzero(powers >= power)
    if not len(enough):
        return Recommendation(None, float(powers[-1]))
    return Recommendation(int(counts[enough[0]]), float(powers[enough[0]]))


def smallest_effect(n: int, *, comparisons: int = 1, power: float = POWER) -> float:
    """
    Return the difference that ``n`` seeds find with a probability, in standard deviations.

    Args:
        n: number of seeds, >= 2.
        comparisons: number of arms that are compared with the reference, >= 1.
        power: the probability, in (0, 1).

    Returns:
        The true difference, divided by the standard deviation of the differences between seeds.
    """
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        found = paired_t_power(n, middle, 1.0, alpha=ALPHA / comparisons)
        low, high = (low, middle) if found >= power else (middle, high)
    return high


def smallest_significant(n: int, *, comparisons: int = 1) -> float:
    """
    Return the smallest observed difference that a paired t test calls significant.

        t_{1 - alpha/2, n-1} / sqrt(n),   alpha = ALPHA / comparisons

    Args:
        n: number of seeds, >= 2.
        comparisons: number of arms that are compared with the reference, >= 1.

    Returns:
        The difference, divided by the observed standard deviation of the differences.
    """
    return float(special.stdtrit(n - 1, 1 - ALPHA / comparisons / 2)) / math.sqrt(n)
