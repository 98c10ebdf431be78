"""Durations as people write them: 30m, 2h, 1h30m."""

from __future__ import annotations

import re

from ..names import shown

SECONDS = {"d": 86400, "h": 3600, "m": 60}
"""Unit -> seconds; a duration names its units in this order."""

LONGEST_S = 366 * 86400
"""Largest duration, in seconds."""

_FORM = re.compile("".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?){unit})?" for unit in SECONDS))


def parse_duration(text: str) -> float:
    """
    Return the seconds of a duration such as 30m, 2h, 1h30m or 1.5d.

    Raises:
        ValueError: the text has another form, or the duration is 0 or longer than a year.
    """
    found = _FORM.fullmatch(text.strip().lower())
    parts = {} if found is None else {k: v for k, v in found.groupdict().items() if v is not None}
    seconds = sum(float(number) * SECONDS[unit] for unit, number in parts.items())
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(
            f"a time is written as 30m, 2h or 1h30m, and is at most a year, got {shown(text)}"
        )
    return seconds


def duration_argument(seconds: float) -> str:
    """Return a duration that :func:`parse_duration` reads, rounded up to whole minutes."""
    minutes = max(1, -int(-seconds // 60))
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m" if hours and minutes else f"{hours}h" if hours else f"{minutes}m"
