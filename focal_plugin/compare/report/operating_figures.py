"""Figures of confusions and of the reliability of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...pages.drawing import WIDTH, Drawing, shorten
from ...pages.plotting import INK, MUTED
from ..analysis.decisions import ArmDecisions, Decisions
from ..analysis.detections.calibration import BINS
from ..analysis.summary import Summary
from . import captions
from .arm_styles import ArmStyle
from .captions import FEWEST_IN_BIN, MOST_BANDS
from .drawing import arms_drawing, draw_band, draw_line, gray_first
from .operating_tables import BACKGROUND, MISSED

MOST_MATRICES = 4
MOST_MATRIX_CLASSES = 15
NUMBERS_UP_TO = 10
"""Most classes for which the numbers fit into the cells."""
DARKEST = 0.37
"""Opacity of a full cell: the numbers on it have the contrast of WCAG AA, in dark mode, too."""


def draw_confusion(summary: Summary) -> Drawing | None:
    """Draw the confusion matrix of the reference and of the most different arms."""
    found, classes = summary.detections.decisions, summary.detections.classes
    if found is None or len(classes) > MOST_MATRIX_CLASSES:
        return None
    arms = [arm for arm in summary.shown if found.arms[arm].confusion][:MOST_MATRICES]
    if not arms:
        return None
    columns = min(2, len(arms))
    rows = math.ceil(len(arms) / columns)
    side = len(classes) + 1
    figure = Figure((WIDTH, rows * (1.2 + 0.19 * side + 0.6)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    names = [shorten(data.label, 14) for data in classes]
    for axes, arm in zip(grid.flat, arms, strict=False):
        _draw_matrix(axes, _matrix(found, found.arms[arm], side))
        axes.set_title(shorten(arm, 30))
        axes.set_xticks(range(side), [*names, MISSED], rotation=90)
        axes.set_yticks(range(side), [*names, BACKGROUND])
    for axes in grid[:, 0]:
        axes.set_ylabel("object")
    for axes in list(grid.flat)[len(arms) :]:
        axes.set_axis_off()
    for axes in list(grid.flat)[: len(arms)][-columns:]:  # the lowest one of each column
        axes.set_xlabel("detected as")
        axes.tick_params(labelbottom=True)
    more = len(summary.arms) - len(arms)
    some = f" {more} more arms are in confusion.csv." if more else ""
    return Drawing(
        name="confusion",
        title="Confusion of classes and background",
        caption=captions.CONFUSION + some,
        figure=figure,
    )


def _matrix(found: Decisions, arm: ArmDecisions, side: int) -> np.ndarray:
    """Return the mean counts, background last."""
    matrix = np.zeros((side, side))
    for cell, count in zip(found.cells, arm.confusion, strict=True):
        row = side - 1 if cell.true is None else cell.true
        column = side - 1 if cell.predicted is None else cell.predicted
        matrix[row, column] = count.mean or 0.0
    return matrix


def _draw_matrix(axes: Axes, matrix: np.ndarray) -> None:
    side = len(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-12)
    for (row, column), share in np.ndenumerate(shares):
        if not share:
            continue
        place = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(place, 1, 1, facecolor=INK, alpha=DARKEST * share, linewidth=0))
        count = matrix[row, column]
        number = count if row == side - 1 else 100 * share
        if side - 1 <= NUMBERS_UP_TO and number >= 0.5:
            axes.text(column, row, f"{number:.0f}", ha="center", va="center", color=INK, size=6.5)
    axes.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5))
    axes.axhline(side - 1.5, color=MUTED, linewidth=0.7)
    axes.axvline(side - 1.5, color=MUTED, linewidth=0.7)
    axes.grid(visible=False)


def draw_reliability(summary: Summary, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    """Draw precision against score, and the share of detections; None without detections."""
    found = summary.detections.decisions
    arms = {arm: a.reliability for arm, a in (found.arms if found else {}).items()}
    arms = {arm: bins for arm, bins in arms.items() if any(b.share for b in bins)}
    if not arms:
        return None
    figure = Figure((WIDTH, 3.5), layout="constrained")
    diagram, shares = figure.subplots(1, 2)
    diagram.plot((0, 1), (0, 1), color=MUTED, linewidth=0.8)
    centers = (np.arange(BINS) + 0.5) / BINS
    for arm in gray_first(arms, styles):
        bins = [b for b in arms[arm] if b.detections >= FEWEST_IN_BIN]
        columns = [(b.score, b.precision, b.low, b.high) for b in bins]
        score, precision, low, high = np.array(columns, dtype=float).reshape(-1, 4).T
        draw_line(diagram, score, precision, styles[arm])
        if len(arms) <= MOST_BANDS:
            draw_band(diagram, score, low, high, styles[arm])
        share = np.array([b.share for b in arms[arm]])
        draw_line(shares, centers, np.where(share > 0, 100 * share, np.nan), styles[arm])
    diagram.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="precision at IoU .5")
    shares.set(xlim=(0, 1), yscale="log", xlabel="score", ylabel="share of the detections, percent")
    shares.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    diagram.set_title("reliability")
    shares.set_title("distribution of the scores")
    return arms_drawing(
        summary,
        styles,
        figure,
        arms,
        name="reliability",
        title="Precision against score",
        caption=captions.RELIABILITY,
    )
