"""Suggestions for names that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
