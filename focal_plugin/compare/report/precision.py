"""Decimals of the numbers of a verdict: enough that no rounded number contradicts the verdict."""

from __future__ import annotations

from typing import Protocol

from ...pages.text import interval_text, signed
from ..analysis.statistics import PairedDifference

MOST_DIGITS = 12
NARROW = 2.0
"""Width of an interval, AP, below which a second decimal means something."""


class Judged(Protocol):
    """Verdict on one dataset, or over several."""

    @property
    def decision(self) -> str:
        """One of :data:`~focal_plugin.compare.analysis.verdicts.DECISIONS`."""

    @property
    def difference(self) -> PairedDifference | None:
        """Difference that the verdict is about; None without one."""


def is_decided(verdict: Judged) -> bool:
    """Return True for a verdict that an arm is higher or lower."""
    return verdict.decision in {"higher", "lower"}


def digits_of(verdict: Judged, *, fewest: int = 1) -> int:
    """
    Return the decimals of the difference and the interval of a verdict.

    With the verdicts higher and lower, the mean and the limits of its interval stay other than 0
    when they are rounded, so that nothing that is called higher is shown as 0.0.

    Args:
        fewest: decimals if nothing requires more.
    """
    difference = verdict.difference
    if difference is None or not is_decided(verdict):
        return fewest
    numbers = [x for x in (difference.mean, *(difference.interval or ())) if x]
    enough = (d for d in range(fewest, MOST_DIGITS) if all(round(x, d) for x in numbers))
    return next(enough, MOST_DIGITS)


def digits_in_words(verdict: Judged, difference: PairedDifference) -> int:
    """Return the decimals in a sentence: at least two if the interval is narrow."""
    low, high = difference.interval or (0.0, NARROW)
    return digits_of(verdict, fewest=1 if high - low >= NARROW else 2)


def difference_text(verdict: Judged) -> str:
    """Return the mean difference with its sign; "" without one."""
    difference = verdict.difference
    return "" if difference is None else signed(difference.mean, digits_of(verdict))


def verdict_interval_text(verdict: Judged) -> str:
    """Return the interval of a verdict, or a dash."""
    interval = verdict.difference.interval if verdict.difference else None
    return interval_text(interval, digits_of(verdict))
