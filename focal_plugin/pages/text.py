"""Formatting of numbers and names for tables and sentences."""

from __future__ import annotations

import re

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"


def plain(text: object) -> str:
    """Return ``text`` in one line, without control characters."""
    words = re.sub(r"\s+", " ", str(text))
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)


def number_text(value: float | None, digits: int = 1) -> str:
    """Return a number, or a dash for None."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """Return a number with its sign, and a real minus; 0.0 has no sign."""
    text = f"{value:+.{digits}f}".replace("-", MINUS)
    return text[1:] if not float(f"{value:.{digits}f}") else text


def interval_text(interval: tuple[float, float] | None, digits: int = 1) -> str:
    """Return the limits of an interval, or a dash."""
    if interval is None:
        return NOTHING
    return " to ".join(signed(limit, digits) for limit in interval)


def duration_text(seconds: float | None) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds is None:
        return NOTHING
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def compact_text(value: float | None) -> str:
    """Return three significant digits; sums range from 6 to 80,000."""
    if value is None:
        return "not finite"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent_text(value: float | None) -> str:
    """Return a share as a percentage, or "not finite"."""
    return "not finite" if value is None else f"{100 * value:.3g}%"


def p_text(p: float) -> str:
    """Return ".25", ".031", ".0004" or "1"; values below .0001 become "< .0001"."""
    if p < 0.0001:
        return "< .0001"
    digits = 2 if p >= 0.1 else 3 if p >= 0.01 else 4
    return f"{p:.{digits}f}".removeprefix("0").replace("1.00", "1")


def count_text(number: int, one: str, many: str = "") -> str:
    """Return `1 seed` or `1,000 seeds`; ``many`` is the plural, if it is not ``one`` with an s."""
    return f"{number:,} {one}" if number == 1 else f"{number:,} {many or one + 's'}"


def listed(names: list[str], most: int = 8) -> str:
    """Return `a, b and c`, or the first ``most`` names and the number of the others."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def are(names: list[str]) -> str:
    """Return "is" for one name and "are" for several."""
    return "is" if len(names) == 1 else "are"
