"""
Procedure of the verdicts: looks, tests and stopping, for one comparison or for many at once.

The same function judges a comparison and simulates thousands of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from ..plan.design import FEWEST_SEEDS, Design
from .looks import Looks
from .shrinkage import shrink
from .statistics import ALPHA, holm_array

FUTILITY_ERRORS = 1.64
"""Standard errors between a difference and an effect out of its reach: a one-sided 95% limit."""
FUTILITY_SHARE = 0.3
"""Share of all seeds from which on an arm can stop because the effect is out of reach."""


@dataclass(frozen=True)
class Outcome:
    """
    Outcome of the procedure; every array has the shape (..., arms).

    Attributes:
        mean: mean of the paired differences at the last look of the arm.
        error: standard error of the mean, from the shrunk variance; NaN below two seeds.
        freedom: its degrees of freedom.
        n: number of seeds in the mean.
        p: two-sided p-value of all looks, adjusted by Holm over the arms.
        p_equivalent: the same for "the difference is within the margin"; 1 without a margin.
        p_not_worse: the same for "the arm is less than the margin below the reference".
        look: index of the look at which the arm stopped, or of the last one.
        stopped: True if the arm needs no further seeds.
    """

    mean: np.ndarray
    error: np.ndarray
    freedom: np.ndarray
    n: np.ndarray
    p: np.ndarray
    p_equivalent: np.ndarray
    p_not_worse: np.ndarray
    look: np.ndarray
    stopped: np.ndarray


def judge(
    differences: np.ndarray,
    design: Design,
    *,
    looks: int | None = None,
    margin: float | None = None,
    alpha: float = ALPHA,
    futility: bool = True,
) -> Outcome:
    """
    Apply the planned looks to paired differences.

    At each look, every open arm gets a paired t test on its seeds so far. From three arms on the
    variances are shrunk (:mod:`.shrinkage`). The p-values cover all looks (:class:`.Looks`), and
    Holm adjusts them over the arms. An arm stops if its adjusted p-value is <= ``alpha``, or if the
    planned effect is out of reach:

        abs(mean) + 1.64 error < effect

    This rule stops an arm only from 30% of the planned seeds on. It never makes an arm different,
    so the error rate does not rely on it.

    Args:
        differences: (..., arms, seeds) arm minus reference, in the order of the seeds. NaN stands
            for a pair without a result. Seeds of an arm after its stop are not read.
        design: the planned looks.
        looks: number of looks to take; default: all of them.
        margin: largest difference that does not matter, > 0.
        alpha: probability of any false difference.
        futility: False lets an arm stop only if it is different.
    """
    null = Looks(design.looks)
    shape = differences.shape[:-1]
    mean, error = np.zeros(shape), np.full(shape, np.nan)
    variance, freedom = np.zeros(shape), np.zeros(shape)
    n, look = np.zeros(shape, int), np.zeros(shape, int)
    smallest = {test: np.ones(shape) for test in ("different", "above", "below")}
    p = np.ones(shape)
    stopped = np.zeros(shape, bool)
    for i, count in enumerate(design.looks[:looks]):
        seen = _moments(differences[..., :count])
        n, mean, variance = (
            np.where(stopped, old, new) for old, new in zip((n, mean, variance), seen, strict=True)
        )
        look = np.where(stopped, look, i)
        shrunk, freedom_now = shrink(np.where(n > 1, variance, np.nan), np.maximum(n - 1, 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.where(stopped, error, np.sqrt(shrunk / n))
        freedom = np.where(stopped, freedom, freedom_now)
        _update(smallest, mean, error, freedom, n, stopped, null.shares[i], margin)
        p = holm_array(null.p_value(smallest["different"]))
        stopped = stopped | (p <= alpha)
        if futility and count >= FUTILITY_SHARE * design.last and design.effect is not None:
            stopped = stopped | (np.abs(mean) + FUTILITY_ERRORS * error < design.effect)
    # Both one-sided tests have to reject
    inside = np.maximum(smallest["above"], smallest["below"])
    return Outcome(
        mean=mean,
        error=error,
        freedom=freedom,
        n=n,
        p=p,
        p_equivalent=holm_array(null.p_value(inside, sides=1)),
        p_not_worse=holm_array(null.p_value(smallest["above"], sides=1)),
        look=look,
        stopped=stopped,
    )


def _moments(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return number, mean and variance (ddof 1) of the differences that are not NaN."""
    known = np.isfinite(differences)
    n = known.sum(axis=-1)
    filled = np.where(known, differences, 0.0)
    mean = filled.sum(axis=-1) / np.maximum(n, 1)
    centered = np.where(known, differences - mean[..., None], 0.0)
    return n, mean, (centered**2).sum(axis=-1) / np.maximum(n - 1, 1)


def _update(
    smallest: dict[str, np.ndarray],
    mean: np.ndarray,
    error: np.ndarray,
    freedom: np.ndarray,
    n: np.ndarray,
    stopped: np.ndarray,
    share: float,
    margin: float | None,
) -> None:
    """Lower the smallest scaled p-value of each test of the open arms to that of this look."""
    open_ = ~stopped & (n >= FEWEST_SEEDS)

    def lower(test: str, p: np.ndarray) -> None:
        smallest[test] = np.where(open_, np.minimum(smallest[test], p / share), smallest[test])

    lower("different", 2 * _upper_tail(np.abs(mean), error, freedom))
    if margin is not None:
        lower("above", _upper_tail(mean + margin, error, freedom))
        lower("below", _upper_tail(margin - mean, error, freedom))


def _upper_tail(distance: np.ndarray, error: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Return P(T >= distance / error); without any error, the sign of the distance decides."""
    with np.errstate(invalid="ignore", divide="ignore"):
        tail = special.stdtr(freedom, -distance / error)
    certain = np.where(distance > 0, 0.0, np.where(distance < 0, 1.0, 0.5))
    return np.where(error > 0, tail, certain)
