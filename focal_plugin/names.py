"""Names in messages: suggestions for those that do not exist, and long ones cut."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from focal_plugin_commands import shortened

MAX_SHOWN = 120
"""Characters of a name in a message; a longer one loses its middle."""


def did_you_mean(name: object, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """
    Return the end of an error message that suggests a known name.

    Args:
        name: the name that does not exist.
        known: the names that do.
        cutoff: least similarity of the suggestion, in [0, 1], see `difflib.get_close_matches`.

    Returns:
        "; did you mean 'ohem'?", or "" if no known name is similar.
    """
    nearest = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def shown(value: object) -> str:
    """Return the repr of a value for a message: in one line, and at most 120 characters long."""
    try:
        return shortened(repr(value), MAX_SHOWN)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a huge number"
