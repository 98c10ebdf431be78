"""Figures with their texts, and parts that all of them share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from .text import plain

WIDTH = 7.6  # inches
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Drawing:
    """
    Figure with its name and its texts.

    Attributes:
        name: name of its files, unique on the page: letters, digits and `-`.
        title: one line, also the text for screen readers.
        caption: explanation below the figure.
    """

    name: str
    title: str
    caption: str
    figure: Figure


def shorten(name: str, length: int = 30) -> str:
    """Return a name cut to ``length`` characters; the tables have the whole name."""
    name = plain(name)
    return name if len(name) <= length else f"{name[: length - 1]}…"


def log_labels(axis: Axis) -> None:
    """Label a logarithmic axis; the labels of matplotlib are formulas, which are off."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    if 1e-3 <= value < 1e5:
        return f"{value:,g}"
    exponent = f"{math.log10(value):.0f}".translate(SUPERSCRIPTS)
    return f"10{exponent}"
