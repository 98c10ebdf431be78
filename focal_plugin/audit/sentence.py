"""One sentence of the audit, with its severity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

Severity = Literal["red", "yellow", "green"]


class Sentence(NamedTuple):
    """
    One statement about a dataset.

    Attributes:
        severity: "red" if no training mends it, "yellow" if it limits a result, else "green".
        topic: the figure that the statement is about, e.g. "anchors" or "splits".
        text: one or two sentences without line breaks.
    """

    severity: Severity
    topic: str
    text: str


def by_severity(sentences: Iterable[Sentence]) -> tuple[Sentence, ...]:
    """Return the red sentences first, then the yellow ones, then the green ones."""
    order = get_args(Severity)
    return tuple(sorted(sentences, key=lambda sentence: order.index(sentence.severity)))
