"""
Statistics over several seeds: differences paired by seed, and tests of them.

The functions take and return numbers; other modules read the runs. A failed run has no number.
Other modules count it, and these functions reject it, because leaving it out would favor its arm.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

ALPHA = 0.05
"""Significance level: rate of differences found between an arm and itself."""
EXACT_SIGN_FLIPS = 30  # seeds; takes two lists of 2**15 sums, milliseconds
EXACT_JOINT_FLIPS = 16  # seeds; takes 2**15 assignments of all arms
SIGN_FLIP_DRAWS = 20_000
ROUNDING = 1e-12  # share of the largest value; smaller differences come from summation order


@dataclass(frozen=True)
class Description:
    """
    Mean and spread of the values of one arm.

    Attributes:
        mean: mean; None without values.
        std: standard deviation, ddof 1; None for fewer than two values.
        n: number of values.
    """

    mean: float | None
    std: float | None
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """
    Difference between an arm and a reference, seed by seed.

    Attributes:
        seeds: seeds that both have, in the order of the arm.
        differences: arm minus reference, one per seed.
        mean: mean of the differences.
        std: standard deviation of the differences, ddof 1; None for one seed.
        error: standard error of the mean; None for one seed.
        freedom: degrees of freedom of ``error``.
        interval: t interval of the mean; None for one seed.
        t_p: two-sided p-value of the paired t test; None for one seed.
        sign_flip_p: two-sided p-value of the exact sign-flip test.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    std: float | None
    error: float | None
    freedom: float
    interval: tuple[float, float] | None
    t_p: float | None
    sign_flip_p: float

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    @property
    def by_seed(self) -> dict[int, float]:
        """Difference by seed."""
        return dict(zip(self.seeds, self.differences, strict=True))

    @property
    def effect_size(self) -> float | None:
        """Return Cohen's d_z, the mean divided by the standard deviation; None if that is 0."""
        return self.mean / self.std if self.std else None

    def with_error(self, error: float, freedom: float, alpha: float = ALPHA) -> PairedDifference:
        """Return a copy whose interval and t test use another standard error."""
        low, high, p = map(float, t_test(self.mean, error, freedom, alpha))
        return replace(self, error=error, freedom=freedom, interval=(low, high), t_p=p)


def describe(values: Iterable[float]) -> Description:
    """
    Return mean and spread.

    Raises:
        ValueError: a value is None, NaN or infinite.
    """
    found = _finite(enumerate(values), "value")
    n = len(found)
    return Description(
        mean=float(np.mean(found)) if n else None,
        std=float(np.std(found, ddof=1)) if n > 1 else None,
        n=n,
    )


def paired_difference(
    arm: Mapping[int, float], reference: Mapping[int, float], *, alpha: float = ALPHA
) -> PairedDifference:
    """
    Apply the paired t test and the exact sign-flip test to the seeds that both have.

        se = std(d) / sqrt(n),   t = mean(d) / se,   interval = mean(d) -+ t_{1 - alpha/2, n-1} se

    Equal differences (std 0) have p = 0, or p = 1 if they are all 0, and an interval of width 0.

    Args:
        arm: seed -> value.
        reference: seed -> value.
        alpha: significance level; the interval covers 1 - alpha.

    Raises:
        ValueError: a value is None, NaN or infinite, or there is no common seed.
    """
    check_finite(arm)
    check_finite(reference)
    seeds = tuple(seed for seed in arm if seed in reference)
    if not seeds:
        raise ValueError("arm and reference have no seed in common")
    pairs = np.array([(arm[seed], reference[seed]) for seed in seeds], dtype=np.float64)
    differences = pairs[:, 0] - pairs[:, 1]
    rounding = ROUNDING * np.abs(pairs).max()
    differences[np.abs(differences) <= rounding] = 0.0
    flip_p = sign_flip_p(differences)
    found = PairedDifference(
        seeds,
        tuple(differences.tolist()),
        float(differences.mean()),
        None,
        None,
        0,
        None,
        None,
        flip_p,
    )
    if len(seeds) == 1:
        return found
    std = float(differences.std(ddof=1))
    std = 0.0 if std <= rounding else std
    return replace(found, std=std).with_error(std / math.sqrt(len(seeds)), len(seeds) - 1, alpha)


def t_test(
    mean: ArrayLike, error: ArrayLike, freedom: ArrayLike, alpha: float = ALPHA
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Apply the t test to means with their standard errors.

    Args:
        mean, error, freedom: numbers or arrays of one shape, with degrees of freedom >= 1; others
            give NaN.
        alpha: significance level; the interval covers 1 - alpha.

    Returns:
        Limits of the interval, and the two-sided p-value. An error of 0 has p = 0, or p = 1 for a
        mean of 0.
    """
    mean, error = np.asarray(mean), np.asarray(error)
    half = special.stdtrit(freedom, 1 - alpha / 2) * error
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * special.stdtr(freedom, -np.abs(mean) / error)
    return mean - half, mean + half, np.where(error == 0, np.where(mean == 0, 1.0, 0.0), p)


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """
    Return the p-value of the exact two-sided sign-flip test that the differences are symmetric.

        p = share of all 2**n assignments of signs s for which abs(sum s d) >= abs(sum d)

    The test assumes no distribution. The smallest p-value is 2**(1 - n). It is exact for up to 30
    differences. Above that, it is estimated from 20,000 random assignments with a fixed seed.

    Args:
        differences: (n,), finite.

    Returns:
        The p-value; 1.0 for no differences.
    """
    differences = np.asarray(differences, dtype=np.float64)
    # Sums in another order differ by rounding, so an assignment this close to the observed one ties
    threshold = abs(differences.sum()) - 1e-10 * np.abs(differences).sum()
    if threshold <= 0:
        return 1.0
    if len(differences) > EXACT_SIGN_FLIPS:
        return _sampled_sign_flip_p(differences, threshold)
    # Each assignment combines one of the first half with one of the second: 2 * 2**(n/2) sums
    middle = len(differences) // 2
    first, second = _signed_sums(differences[:middle]), _signed_sums(differences[middle:])
    second.sort()
    above = len(second) - np.searchsorted(second, threshold - first, side="left")
    below = np.searchsorted(second, -threshold - first, side="right")
    return float((above.sum() + below.sum()) / (len(first) * len(second)))


def joint_sign_flip_p(differences: np.ndarray) -> np.ndarray:
    """
    Return the p-values of the sign-flip test of several arms at once, adjusted for their number.

    An assignment of signs flips whole seeds, the same ones in every arm, because all arms share the
    runs of the reference. The statistic of an arm grows with its t value:

        T = abs(sum d) / sqrt(sum d**2)
        p = share of the 2**n assignments whose largest T over the arms is >= the arm's own T

    The smallest p-value is 2**(1 - n) for any number of arms. It is exact for up to 16 seeds. Above
    that, it is estimated from 20,000 random assignments with a fixed seed.

    Source: P. H. Westfall, S. S. Young, Resampling-Based Multiple Testing, 1993, single-step maxT.

    Args:
        differences: (arms, seeds) arm minus reference; NaN for a pair without a result.

    Returns:
        (arms,) p-values; 1.0 for an arm without a difference.
    """
    differences = np.nan_to_num(np.asarray(differences, dtype=np.float64), nan=0.0)
    arms, seeds = differences.shape
    if arms == 1:
        return np.array([sign_flip_p(differences[0])])
    norms = np.sqrt((differences**2).sum(axis=1))
    scaled = differences / np.where(norms > 0, norms, 1.0)[:, None]
    if seeds > EXACT_JOINT_FLIPS:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (SIGN_FLIP_DRAWS, seeds))
    else:  # a flip of all seeds changes nothing, so the first keeps its sign
        bits = np.arange(2 ** max(seeds - 1, 0))[:, None] >> np.arange(seeds)[None]
        signs = 1.0 - 2.0 * (bits & 1)
    largest = np.abs(signs @ scaled.T).max(axis=1)
    observed = np.abs(scaled.sum(axis=1))
    hits = (largest[None] >= observed[:, None] - 1e-10).sum(axis=1)
    if seeds > EXACT_JOINT_FLIPS:  # counts the observed assignment
        return (hits + 1) / (SIGN_FLIP_DRAWS + 1)
    return hits / len(signs)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """
    Return the p-values adjusted by Holm (1979).

    All p-values <= alpha may be called differences, with a family-wise error rate of alpha.

        p_(i) -> max over j <= i of min(1, (m - j + 1) p_(j)),   p_(1) <= ... <= p_(m)

    Args:
        p_values: values in [0, 1]; None for a planned comparison that cannot be decided. It counts
            in m, as if its p were 1, so a failed run makes no other arm significant.

    Returns:
        Adjusted values in the same order; None stays None.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    for p in p_values:
        if p is not None and not 0 <= p <= 1:
            raise ValueError(f"a p-value must be in [0, 1], got {p}")
    adjusted = holm_array(np.array([1.0 if p is None else p for p in p_values])).tolist()
    return [None if p is None else a for p, a in zip(p_values, adjusted, strict=True)]


def holm_array(p_values: np.ndarray) -> np.ndarray:
    """Return p-values (..., comparisons), each in [0, 1], adjusted by :func:`holm`."""
    order = np.argsort(p_values, axis=-1, kind="stable")
    factors = np.arange(p_values.shape[-1], 0, -1)
    scaled = np.minimum(np.take_along_axis(p_values, order, -1) * factors, 1.0)
    adjusted = np.empty_like(scaled)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(scaled, axis=-1), -1)
    return adjusted


def check_finite(by_seed: Mapping[int, float | None]) -> None:
    """
    Check the values of an arm.

    Raises:
        ValueError: a value is None, NaN or infinite.
    """
    _finite(by_seed.items(), "seed")


def is_finite_number(value: Any) -> bool:
    """Return True for a real number that is neither NaN nor infinite."""
    try:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def _finite(items: Iterable[tuple[object, float | None]], of: str) -> list[float]:
    found = []
    for key, value in items:
        if value is None or not is_finite_number(value):
            raise ValueError(f"{of} {key} is {value}: a failed run is counted, not averaged")
        found.append(float(value))
    return found


def _signed_sums(values: np.ndarray) -> np.ndarray:
    """Return (2**n,) the sum of ``values`` (n,) under every assignment of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _sampled_sign_flip_p(differences: np.ndarray, threshold: float) -> float:
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (SIGN_FLIP_DRAWS, len(differences)))
    hits = int((np.abs(signs @ differences) >= threshold).sum())
    return (hits + 1) / (SIGN_FLIP_DRAWS + 1)  # counts the observed assignment, so p is never 0
