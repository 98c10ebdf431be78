"""Formatting of the scores of arms for the tables of a report."""

from __future__ import annotations

from ...pages.text import NOTHING, count_text
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


def runs_text(scores: ArmScores) -> str:
    """Return `6`, or `4 of 6, 1 failed`."""
    done, failed = scores.states["done"], scores.states["failed"]
    text = f"{done}" if done == scores.planned else f"{done} of {scores.planned}"
    return f"{text}, {failed} failed" if failed else text


def share_text(part: int, whole: int) -> str:
    """Return `2 of 3 seeds`."""
    return f"{part} of {count_text(whole, 'seed')}"
