"""One sentence of the audit, with its severity."""

from __future__ import annotations

from typing import Literal, NamedTuple

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
