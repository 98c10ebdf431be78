"""Many quantities at once: their spread over the seeds and their paired difference to an arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .scores import NO_PREDICTIONS, Value
from .statistics import ALPHA, ROUNDING, t_test


@dataclass(frozen=True)
class Compared:
    """
    Quantity of one arm over its seeds, and its difference to the reference.

    Attributes:
        mean: mean over the seeds; None without numbers.
        std: standard deviation between the seeds, ddof 1; None for fewer than two numbers.
        n: count of the numbers.
        difference: mean of arm minus reference over the seeds that both have; None without such a
            seed, and for the reference itself.
        interval: 95% t interval of the difference; None for fewer than two pairs.
        pairs: count of the seeds that both have.
    """

    mean: float | None
    std: float | None
    n: int
    difference: float | None = None
    interval: tuple[float, float] | None = None
    pairs: int = 0


class PairedTests(NamedTuple):
    """
    Paired t tests of Q quantities; NaN where there are too few pairs.

    Attributes:
        pairs: (Q,) count of the seeds that both have.
        mean: (Q,) mean of arm minus reference.
        low, high: (Q,) limits of the t interval of the mean.
        p: (Q,) two-sided p-value, not adjusted.
    """

    pairs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def paired_tests(arm: np.ndarray, reference: np.ndarray, *, alpha: float = ALPHA) -> PairedTests:
    """
    Apply the paired t test of :func:`~.statistics.paired_difference` to many quantities.

    Args:
        arm: (S, Q) values, a row per seed; NaN for a missing value.
        reference: (S, Q) the same seeds of the reference.
        alpha: significance level; the interval covers 1 - alpha.
    """
    differences = arm - reference
    known = ~np.isnan(differences)
    pairs = known.sum(axis=0)
    size = np.where(known, np.maximum(np.abs(arm), np.abs(reference)), 0)
    rounding = ROUNDING * size.max(axis=0, initial=0)
    differences = np.where(known & (np.abs(differences) > rounding), differences, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = differences.sum(axis=0) / pairs
        squares = np.where(known, differences - mean, 0.0) ** 2
        std = np.sqrt(squares.sum(axis=0) / (pairs - 1))
        std[std <= rounding] = 0.0
        error = std / np.sqrt(pairs)
    tested = t_test(mean, error, pairs - 1, alpha)
    return PairedTests(pairs, mean, *(np.where(pairs < 2, np.nan, part) for part in tested))


def compared(arm: np.ndarray, reference: np.ndarray | None) -> list[Compared]:
    """
    Return the spread of Q quantities of an arm, and their differences to the reference.

    Args:
        arm: (S, Q) values, a row per seed; NaN for a missing value.
        reference: (S, Q) the same seeds of the reference; None if the arm is the reference.
    """
    known = ~np.isnan(arm)
    n = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, arm, 0.0).sum(axis=0) / n
        squares = np.where(known, arm - mean, 0.0) ** 2
        std = np.sqrt(squares.sum(axis=0) / (n - 1))
    std[n < 2] = np.nan
    spreads = list(zip(map(_number, mean), map(_number, std), n.tolist(), strict=True))
    if reference is None:
        return [Compared(*spread) for spread in spreads]
    tests = paired_tests(arm, reference)
    return [
        Compared(*spread, _number(d), _interval(low, high), pairs)
        for spread, pairs, d, low, high in zip(
            spreads, tests.pairs.tolist(), tests.mean, tests.low, tests.high, strict=True
        )
    ]


def by_arm(
    values: Mapping[str, Mapping[int, np.ndarray]], reference: str
) -> dict[str, list[Compared]]:
    """
    Return arm -> its Q quantities, each compared with those of the reference.

    Args:
        values: arm -> seed -> (Q,) values; NaN for a missing value.
        reference: one of the arms.
    """
    rows = stacked(values)
    return {
        arm: compared(row, None if arm == reference else rows[reference])
        for arm, row in rows.items()
    }


def stacked(values: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return arm -> (S, Q) its values, a row per seed of any arm; NaN for a missing run."""
    found = {seed: row for of_arm in values.values() for seed, row in of_arm.items()}
    length = len(next(iter(found.values()), ()))
    nothing = np.full(length, np.nan)
    return {
        arm: np.array([of_arm.get(seed, nothing) for seed in found]).reshape(len(found), length)
        for arm, of_arm in values.items()
    }


def number_of(value: Value, exists: bool) -> float:
    """
    Return a value as a number.

    Args:
        value: number or state of a finished run.
        exists: True if the test data has objects of this class or size. Then a run that detected
            nothing has 0.

    Returns:
        NaN if there is no number.
    """
    if value == NO_PREDICTIONS and exists:
        return 0.0
    return math.nan if isinstance(value, str) else value


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _interval(low: float, high: float) -> tuple[float, float] | None:
    return None if math.isnan(low) else (float(low), float(high))
