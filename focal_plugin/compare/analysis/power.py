"""How many seeds it takes to find a difference of a given size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from .statistics import ALPHA, fewest_seeds

POWER = 0.8
MAX_SEEDS = 1000


@dataclass(frozen=True)
class Recommendation:
    """
    Attributes:
        seeds: the fewest with the wanted power; None if that is more than :data:`MAX_SEEDS`.
        power: with that many.
    """

    seeds: int | None
    power: float


def paired_t_power(
    n: int | np.ndarray, effect: float, std: float, *, alpha: float = ALPHA
) -> np.ndarray:
    """
    How often a two-sided paired t test finds a difference that is there, with the right sign.

        P(T > t_{1 - alpha/2, n-1}),   T ~ noncentral t(n - 1, sqrt(n) effect / std)

    Args:
        n: number of seeds, any shape, >= 2.
        effect: the true difference, > 0.
        std: of the differences between the seeds, ddof 1, in the unit of ``effect``, >= 0.
        alpha: of the test; for k comparisons with Holm ALPHA / k, which is its first step.

    Returns:
        in the shape of ``n``.

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
    # not `scipy.stats`, which takes a second to import
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
    The fewest seeds with which a verdict finds ``effect`` with probability ``power``.

    Never fewer than :func:`~.statistics.fewest_seeds`, as no verdict is given below.

    Args:
        std_of_differences: between the seeds of a comparison like this one, AP in percent.
        effect: the difference to be found, AP in percent.
        power: in (0, 1).
        comparisons: how many arms are compared with the reference, >= 1.
        alpha: of all of them together.

    Raises:
        ValueError: an argument is outside its range.
    """
    if comparisons < 1 or not 0 < power < 1:
        raise ValueError(f"expected comparisons >= 1 and 0 < power < 1, got {comparisons}, {power}")
    counts = np.arange(fewest_seeds(alpha), MAX_SEEDS + 1)
    powers = paired_t_power(counts, effect, std_of_differences, alpha=alpha / comparisons)
    enough = np.flatnonzero(powers >= power)
    if not len(enough):
        return Recommendation(None, float(powers[-1]))
    return Recommendation(int(counts[enough[0]]), float(powers[enough[0]]))
