"""Figure of the differences by class against the frequency of the class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ...pages.drawing import WIDTH, Drawing, log_labels, shorten
from ...pages.plotting import INK, PAPER
from ...pages.text import plain
from ..analysis.class_differences import ClassDifferences
from ..analysis.detection_analysis import ClassOfData
from ..analysis.summary import Summary
from . import captions
from .arm_styles import ArmStyle
from .drawing import left_out

COLUMNS = 3
MOST_INTERVALS = 60
"""Most classes for which the intervals can be told apart."""


def draw_class_differences(summary: Summary, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    """Draw the difference of each class to the reference, a panel per arm; None without pairs."""
    found, classes = summary.class_differences, summary.detections.classes
    arms = [arm for arm in summary.arms if arm != summary.reference and styles[arm].colored]
    if found is None:
        return None
    trained = all(data.train_objects is not None for data in classes)
    arms = [arm for arm in arms if any(c.pairs for c in found.classes[arm])]
    if not arms:
        return None
    columns = min(len(arms), COLUMNS)
    rows = math.ceil(len(arms) / columns)
    figure = Figure((WIDTH, 0.5 + 2.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    counts = _counts(classes, trained)
    for axes, arm in zip(grid.flat, arms, strict=False):
        _draw_panel(axes, found, arm, counts, styles[arm])
        axes.set_title(shorten(arm, 26))
    for axes in list(grid.flat)[len(arms) :]:
        axes.set_axis_off()
    figure.supxlabel(
        f"objects in the {'training' if trained else 'test'} data, logarithmic", fontsize=8.5
    )
    figure.supylabel(f"AP minus that of {shorten(summary.reference)}", fontsize=8.5)
    caption = captions.CLASS_DIFFERENCES
    if len(classes) > MOST_INTERVALS:
        caption += f" Intervals of {len(classes)} classes would hide each other: see the tables."
    return Drawing(
        name="difference-by-class",
        title=f"Difference in AP to {plain(summary.reference)} by frequency of the class",
        caption=caption + left_out(summary),
        figure=figure,
    )


def _counts(classes: Sequence[ClassOfData], trained: bool) -> list[float]:
    counts = [data.train_objects if trained else data.val_objects for data in classes]
    return [max(count or 0, 0.5) for count in counts]  # a logarithmic axis has no 0


def _draw_panel(
    axes: Axes, found: ClassDifferences, arm: str, counts: list[float], look: ArmStyle
) -> None:
    axes.set_xscale("log")
    axes.axhline(0, color=INK, linewidth=1)
    tested = found.classes[arm]
    for count, of_class in zip(counts, tested, strict=True):
        if of_class.difference is None:
            continue
        if of_class.interval is not None and len(tested) <= MOST_INTERVALS:
            axes.plot((count, count), of_class.interval, color=look.color, linewidth=1.2)
        decided = of_class.p is not None and of_class.p <= 0.05
        face = look.color if decided else PAPER
        axes.plot(count, of_class.difference, "o", color=look.color, mfc=face, ms=4.5, mew=1.2)
    for group, mean in zip(found.groups, found.by_group[arm], strict=True):
        if mean.difference is not None:
            of_group = [counts[i] for i in group.classes]
            ends = (min(of_group) / 1.12, max(of_group) * 1.12)
            axes.plot(ends, (mean.difference,) * 2, color=INK, linewidth=2, alpha=0.45)
    if max(counts) < 30 * min(counts):
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    log_labels(axes.xaxis)
