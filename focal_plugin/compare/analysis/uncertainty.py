"""Uncertainty of a difference: from seeds, from test images, and from both together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from ..plan.design import FEWEST_SEEDS
from .detection_analysis import ImageDifference
from .scores import Standing
from .statistics import ALPHA, PairedDifference

RESAMPLES = 10_000


@dataclass(frozen=True)
class Uncertainty:
    """
    Uncertainty of the difference between an arm and the reference, AP in percent.

    Attributes:
        seeds: t interval over the seeds, as the verdict uses it; None for one seed.
        bca: BCa bootstrap interval over the seeds; None for fewer than four.
        images: standard error over the test images; None without resamples.
        total: interval of seeds and images together; None without one of them.
        effect_size: Cohen's d_z; None if the differences do not vary, or for one seed.
        improvement: probability that a run of the arm has a higher AP than one of the reference.
    """

    arm: str
    seeds: tuple[float, float] | None
    bca: tuple[float, float] | None
    images: float | None
    total: tuple[float, float] | None
    effect_size: float | None
    improvement: float


def uncertainties(
    standing: Standing, images: Mapping[str, ImageDifference | None], reference: str
) -> tuple[Uncertainty, ...]:
    """
    Return the uncertainty of every arm that has a difference, in the order of the verdicts.

    The seeds share one set of test images, so the noise of both adds up. The total is conservative,
    because the spread between seeds already holds a part of the noise of images:

        total = mean -+ t(.975) sqrt(error_seeds**2 + error_images**2)

    Args:
        images: arm -> its difference on resampled images, if any.
        reference: one of the arms.
    """
    against = list(standing.arm(reference).judged.values())
    found = []
    for verdict in standing.verdicts:
        difference = verdict.difference
        if difference is None:
            continue
        resampled = images.get(verdict.arm)
        error = None if resampled is None else resampled.standard_error
        found.append(
            Uncertainty(
                arm=verdict.arm,
                seeds=difference.interval,
                bca=bca_interval(difference.differences),
                images=error,
                total=_total(difference, error),
                effect_size=difference.effect_size,
                improvement=probability_of_improvement(
                    list(standing.arm(verdict.arm).judged.values()), against
                ),
            )
        )
    return tuple(found)


def bca_interval(
    differences: Sequence[float], *, alpha: float = ALPHA
) -> tuple[float, float] | None:
    """
    Return the BCa bootstrap interval of the mean difference.

    It corrects the percentiles of the bootstrap for bias and for skew. With few seeds it is
    narrower than the t interval, and covers less often than it says.

    Source: B. Efron, Better Bootstrap Confidence Intervals, 1987, equations 6.5 to 6.7.

    Args:
        differences: (n,) one per seed.
        alpha: the interval covers 1 - alpha.

    Returns:
        None for fewer than four differences.
    """
    values = np.asarray(differences, dtype=np.float64)
    n, mean = len(values), float(values.mean())
    if n < FEWEST_SEEDS:
        return None
    if not np.any(values != values[0]):
        return mean, mean
    drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    means = np.sort(values[drawn].mean(axis=1))
    below = (np.sum(means < mean) + np.sum(means <= mean)) / 2 / RESAMPLES
    bias = special.ndtri(below)
    left_out = (values.sum() - values) / (n - 1)
    influence = left_out.mean() - left_out
    acceleration = np.sum(influence**3) / (6 * np.sum(influence**2) ** 1.5)
    z = bias + special.ndtri(np.array([alpha / 2, 1 - alpha / 2]))
    low, high = np.quantile(means, special.ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def probability_of_improvement(arm: Sequence[float], reference: Sequence[float]) -> float:
    """
    Return the share of pairs of runs in which the arm has the higher value; a tie counts half.

    Source: R. Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice,
    2021, section 4.3 (the Mann-Whitney U statistic, divided by the number of pairs).

    Args:
        arm, reference: values of their runs, at least one each; they need not be paired.
    """
    own, other = np.asarray(arm)[:, None], np.asarray(reference)[None]
    return float(np.mean((own > other) + 0.5 * (own == other)))


def _total(difference: PairedDifference, images: float | None) -> tuple[float, float] | None:
    if difference.error is None or images is None:
        return None
    quantile = float(special.stdtrit(difference.freedom, 1 - ALPHA / 2))
    half = quantile * math.hypot(difference.error, images)
    return difference.mean - half, difference.mean + half
