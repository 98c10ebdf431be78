"""Formatting of the scores of arms for the tables of a report."""

from __future__ import annotations

from ...pages.text import NOTHING, count_text, interval_text, signed
from ..analysis.paired import Compared
from ..analysis.scores import ArmScores, Spread, Value


def value_text(value: Value, digits: int = 1) -> str:
    """Return a number, or the reason why there is none."""
    return value if isinstance(value, str) else f"{value:.{digits}f}"


def spread_text(spread: Spread, digits: int = 1) -> str:
    """Return `34.1 ± 0.4`, with the number of runs that are missing from the mean."""
    if spread.mean is None:
        return spread.state or NOTHING
    text = f"{spread.mean:.{digits}f}"
    if spread.std is not None:
        text += f" ± {spread.std:.{digits}f}"
    if spread.without:
        state = next(value for value in spread.by_seed.values() if isinstance(value, str))
        text += f" ({spread.without} of {len(spread.by_seed)}: {state})"
    return text


def compared_text(found: Compared, digits: int = 1) -> str:
    """Return `34.1 ± 0.4`."""
    if found.mean is None:
        return NOTHING
    text = f"{found.mean:.{digits}f}"
    return text if found.std is None else f"{text} ± {found.std:.{digits}f}"


def difference_text(found: Compared, digits: int = 1) -> str:
    """Return `+1.2 (-0.3 to +2.7)`, the paired difference with its interval."""
    if found.difference is None:
        return NOTHING
    text = signed(found.difference, digits)
    return text if found.interval is None else f"{text} ({interval_text(found.interval, digits)})"


def runs_text(scores: ArmScores) -> str:
    """Return `6`, or `4 of 6, 1 failed`."""
    done, failed = scores.states["done"], scores.states["failed"]
    text = f"{done}" if done == scores.planned else f"{done} of {scores.planned}"
    return f"{text}, {failed} failed" if failed else text


def share_text(part: int, whole: int) -> str:
    """Return `2 of 3 seeds`."""
    return f"{part} of {count_text(whole, 'seed')}"
