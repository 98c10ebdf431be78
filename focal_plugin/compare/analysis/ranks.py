"""
Ranks of several arms over several datasets: Friedman's test and Nemenyi's critical difference.

Source: J. Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, 2006, sections
3.2.2 and 3.2.3.

Shape shorthand:
    A: number of arms
    D: number of datasets
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from .statistics import ALPHA

FEWEST_ARMS = 3
"""Number of arms from which on their ranks say more than their differences."""


@dataclass(frozen=True)
class Ranks:
    """
    Mean ranks of the arms.

    Attributes:
        datasets: those on which every arm has an AP.
        mean: arm -> mean rank, 1 for the best; the best first. Equal APs share their mean rank.
        critical_difference: difference of mean ranks that is significant at 5%, by Nemenyi's test.
        friedman_p: p-value of Friedman's test that all arms are equal, in the form of Iman and
            Davenport.
        groups: largest groups of arms, in the order of ``mean``, that do not differ significantly;
            without groups of one arm.
    """

    datasets: tuple[str, ...]
    mean: dict[str, float]
    critical_difference: float
    friedman_p: float
    groups: tuple[tuple[str, ...], ...]


def rank_arms(ap: Mapping[str, Mapping[str, float]], *, fewest_datasets: int) -> Ranks | None:
    """
    Rank the arms on each dataset by their mean AP.

        critical difference = q sqrt(A (A + 1) / (6 D)),   q = studentized range(A, inf) / sqrt(2)

    Args:
        ap: dataset -> arm -> mean AP. A dataset without one of the arms is left out.
        fewest_datasets: number of datasets below which there are no ranks.

    Returns:
        None for too few datasets, or for fewer than :data:`FEWEST_ARMS` arms.
    """
    arms = list(dict.fromkeys(arm for of_dataset in ap.values() for arm in of_dataset))
    complete = {name: found for name, found in ap.items() if found.keys() == set(arms)}
    if len(arms) < FEWEST_ARMS or len(complete) < fewest_datasets:
        return None
    from scipy import stats  # a second, for which no other report should wait

    values = np.array([[found[arm] for arm in arms] for found in complete.values()])  # (D, A)
    count, number = values.shape
    mean = stats.rankdata(-values, axis=1).mean(axis=0)
    quantile = float(stats.studentized_range.ppf(1 - ALPHA, number, np.inf)) / math.sqrt(2)
    critical = quantile * math.sqrt(number * (number + 1) / (6 * count))
    order = sorted(range(number), key=lambda i: mean[i])
    by_arm = {arms[i]: float(mean[i]) for i in order}
    return Ranks(
        datasets=tuple(complete),
        mean=by_arm,
        critical_difference=critical,
        friedman_p=_friedman_p(values),
        groups=_groups(by_arm, critical),
    )


def _friedman_p(values: np.ndarray) -> float:
    """Return the p-value of Friedman's test of (D, A) values."""
    count, number = values.shape
    if (values == values[:, :1]).all():
        return 1.0
    from scipy import stats

    chi_squared = float(stats.friedmanchisquare(*values.T).statistic)
    largest = count * (number - 1)
    if chi_squared >= largest * (1 - 1e-12):  # the same order on every dataset
        return 0.0
    f = (count - 1) * chi_squared / (largest - chi_squared)
    return float(special.fdtrc(number - 1, (number - 1) * (count - 1), f))


def _groups(mean: Mapping[str, float], critical: float) -> tuple[tuple[str, ...], ...]:
    arms = list(mean)
    found: list[tuple[str, ...]] = []
    for start, first in enumerate(arms):
        group = tuple(a for a in arms[start:] if mean[a] - mean[first] <= critical)
        if len(group) > 1 and not (found and set(group) <= set(found[-1])):
            found.append(group)
    return tuple(found)
