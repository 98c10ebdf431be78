"""
Statistics over several seeds: differences paired by seed, tests and verdicts.

The functions take and return numbers; other modules read the runs. A failed run has no number.
Other modules count it, and these functions reject it, because leaving it out would favor its arm.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np
from scipy import special

ALPHA = 0.05
"""Significance level: rate of differences found between an arm and itself."""
DECISIONS = ("higher", "lower", "no difference shown", "undecided")
EXACT_SIGN_FLIPS = 30  # seeds; takes two lists of 2**15 sums, milliseconds
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
        interval: t interval of the mean; None for one seed.
        t_p: two-sided p-value of the paired t test; None for one seed.
        sign_flip_p: two-sided p-value of the exact sign-flip test.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    std: float | None
    interval: tuple[float, float] | None
    t_p: float | None
    sign_flip_p: float

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    @property
    def largest(self) -> float | None:
        """Largest absolute difference that the interval does not exclude."""
        return None if self.interval is None else max(abs(limit) for limit in self.interval)


class FlawKind(Enum):
    """Reasons why an arm gets no verdict."""

    NOT_PLANNED = auto()
    FAILED = auto()
    NO_AP = auto()
    NONE_DONE = auto()
    UNFINISHED = auto()


@dataclass(frozen=True)
class Flaw:
    """
    Reason why an arm gets no verdict.

    Attributes:
        runs: number of runs that the reason applies to.
        planned: number of runs of the arm.
        of_reference: True if the runs are those of the reference.
    """

    kind: FlawKind
    runs: int
    planned: int
    of_reference: bool = False


@dataclass(frozen=True)
class Verdict:
    """
    Verdict on one arm against the reference.

    Attributes:
        arm: its name.
        decision: one of :data:`DECISIONS`, from the arm's side.
        difference: None if the two have no seed in common.
        p: p-value of the t test after Holm over all arms; None if nothing can be decided.
        flaw: reason why the verdict is withheld, or None.
    """

    arm: str
    decision: str
    difference: PairedDifference | None
    p: float | None
    flaw: Flaw | None = None


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
    _finite(arm.items(), "seed")
    _finite(reference.items(), "seed")
    seeds = tuple(seed for seed in arm if seed in reference)
    if not seeds:
        raise ValueError("arm and reference have no seed in common")
    pairs = np.array([(arm[seed], reference[seed]) for seed in seeds], dtype=np.float64)
    differences = pairs[:, 0] - pairs[:, 1]
    rounding = ROUNDING * np.abs(pairs).max()
    differences[np.abs(differences) <= rounding] = 0.0
    mean, std, interval, t_p = float(differences.mean()), None, None, None
    if len(seeds) > 1:
        std = float(differences.std(ddof=1))
        std = 0.0 if std <= rounding else std
        interval, t_p = _t_test(mean, std, len(seeds), alpha)
    return PairedDifference(
        seeds, tuple(differences.tolist()), mean, std, interval, t_p, sign_flip_p(differences)
    )


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


def smallest_sign_flip_p(n: int) -> float:
    """Return the p-value of the exact sign-flip test if all ``n`` seeds have the same sign."""
    return min(1.0, 2.0 ** (1 - n))


def fewest_seeds(alpha: float = ALPHA) -> int:
    """Return the fewest seeds at which an exact sign-flip test can reach ``alpha``: 6 for .05."""
    return max(1, math.ceil(1 - math.log2(alpha)))


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
    adjusted: list[float | None] = [None] * len(p_values)
    known = [(p, i) for i, p in enumerate(p_values) if p is not None]
    largest = 0.0
    for rank, (p, i) in enumerate(sorted(known)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[i] = largest
    return adjusted


def verdicts(
    results: Mapping[str, Mapping[int, float]],
    reference: str,
    alpha: float = ALPHA,
) -> list[Verdict]:
    """
    Compare every other arm with the reference.

    An arm is "higher" or "lower" if the paired t test is significant at ``alpha`` after Holm over
    all arms. Below :func:`fewest_seeds` it is "undecided", whatever its p-value.

    Args:
        results: arm -> seed -> value, percent, of the finished runs.
        reference: one of the arms.
        alpha: probability that any arm is called different if none differs from the reference.

    Returns:
        One verdict per arm, in the order of ``results``.

    Raises:
        KeyError: the reference is not one of the arms.
        ValueError: a value is None, NaN or infinite.
    """
    if reference not in results:
        raise KeyError(f"the reference {reference!r} is not one of {', '.join(results)}")
    arms = [arm for arm in results if arm != reference]
    differences = [_difference(results[arm], results[reference], alpha) for arm in arms]
    decidable = [d is not None and d.n >= fewest_seeds(alpha) for d in differences]
    p_values = holm(
        [d.t_p if d and yes else None for d, yes in zip(differences, decidable, strict=True)]
    )
    return [
        Verdict(arm, _decide(difference, p, alpha), difference, p)
        for arm, difference, p in zip(arms, differences, p_values, strict=True)
    ]


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


def _t_test(mean: float, std: float, n: int, alpha: float) -> tuple[tuple[float, float], float]:
    if std == 0:
        return (mean, mean), float(mean == 0)
    error = std / math.sqrt(n)
    half = float(special.stdtrit(n - 1, 1 - alpha / 2)) * error
    return (mean - half, mean + half), float(2 * special.stdtr(n - 1, -abs(mean) / error))


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


def _difference(
    arm: Mapping[int, float], reference: Mapping[int, float], alpha: float
) -> PairedDifference | None:
    if arm.keys() & reference.keys():
        return paired_difference(arm, reference, alpha=alpha)
    _finite([*arm.items(), *reference.items()], "seed")
    return None


def _decide(difference: PairedDifference | None, p: float | None, alpha: float) -> str:
    if difference is None or p is None:
        return "undecided"
    if p > alpha:
        return "no difference shown"
    return "higher" if difference.mean > 0 else "lower"
