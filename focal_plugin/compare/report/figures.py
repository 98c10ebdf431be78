"""Figures of a report, drawn from a summary."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...pages.drawing import WIDTH, Drawing, shorten
from ...pages.plotting import GRID, INK, PAPER, style
from ...pages.text import plain, signed
from ..analysis.detection_analysis import ERROR_TYPES
from ..analysis.scores import Spread, Standing
from ..analysis.statistics import PairedDifference
from ..analysis.summary import Summary
from ..analysis.verdicts import Verdict
from . import captions, tuning_section
from .arm_styles import ArmStyle, arm_styles
from .class_figures import draw_class_differences
from .drawing import arms_drawing, draw_band, draw_line, gray_first
from .operating_figures import draw_confusion, draw_reliability
from .precision import difference_text, digits_of
from .shown_classes import left_out_classes, shown_classes
from .training_figures import (
    draw_cumulative_loss,
    draw_gradient_histogram,
    draw_gradient_norms,
    draw_progress,
    draw_training,
)

ROW = 0.3  # inches
SIZES = {"APs": "small (< 32²)", "APm": "medium", "APl": "large (> 96²)"}


def draw_all(summary: Summary) -> list[Drawing]:
    """Draw all figures that have data."""
    styles = arm_styles(summary.arms, summary.reference, list(summary.shown))
    with style():
        made = [
            _forest(summary, summary.equal, styles),
            None if summary.best is None else _forest(summary, summary.best, styles),
            _by_size(summary, styles),
            _by_class(summary, styles),
            draw_class_differences(summary, styles),
            _error_types(summary, styles),
            _precision_recall(summary, styles),
            draw_confusion(summary),
            draw_reliability(summary, styles),
            draw_progress(summary, styles),
            draw_training(summary, styles),
            draw_gradient_norms(summary, styles),
            *(draw_cumulative_loss(summary, part, styles) for part in summary.losses.parts),
            *(draw_gradient_histogram(summary, part, styles) for part in summary.losses.parts),
            _cost(summary, styles),
        ]
    return [drawing for drawing in made if drawing is not None]


def _forest(summary: Summary, standing: Standing, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    found = [(v, v.difference) for v in standing.verdicts if v.difference is not None]
    if not found:
        return None
    found.sort(key=lambda pair: pair[1].mean)
    at_best = standing.role == "best"
    totals = {} if at_best else {u.arm: u.total for u in summary.uncertainties}
    figure = Figure((WIDTH, 0.85 + ROW * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=1)
    for row, (verdict, difference) in enumerate(found):
        _forest_row(axes, row, verdict, difference, styles[verdict.arm])
        total = totals.get(verdict.arm)
        if total is not None:
            axes.plot(total, (row, row), "|-", color=styles[verdict.arm].color, lw=0.8, ms=6)
    axes.set_yticks(range(len(found)), [shorten(v.arm) for v, _ in found])
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"AP minus that of {shorten(summary.reference)}, percentage points")
    beside = axes.twinx()
    beside.set_ylim(axes.get_ylim())
    beside.set_yticks(range(len(found)), [_numbers(v, d) for v, d in found])
    beside.grid(visible=False)
    for side in ("left", "right"):
        beside.spines[side].set_visible(False)
    where = tuning_section.at_best(summary) if at_best else tuning_section.at_equal(summary)
    return Drawing(
        name="forest-best" if at_best else "forest",
        title=f"Difference in AP to {plain(summary.reference)}"
        + (f", {where[0].lower()}{where[1:]}" if summary.trained else ""),
        caption=captions.FOREST,
        figure=figure,
    )


def _forest_row(
    axes: Axes, row: int, verdict: Verdict, difference: PairedDifference, look: ArmStyle
) -> None:
    values = np.array(difference.differences)
    axes.plot(values, np.full(len(values), row - 0.24), "o", color=look.color, ms=3, alpha=0.6)
    if difference.interval is not None:
        axes.plot(difference.interval, (row, row), color=look.color, linewidth=2)
    decided = verdict.decision in ("higher", "lower")
    face = look.color if decided else PAPER
    axes.plot(difference.mean, row, "D", color=look.color, mfc=face, ms=6, mew=1.5)


def _numbers(verdict: Verdict, difference: PairedDifference) -> str:
    if difference.interval is None:
        return f"{difference_text(verdict)}   (1 seed)"
    low, high = (signed(limit, digits_of(verdict)) for limit in difference.interval)
    return f"{difference_text(verdict)}   [{low}, {high}]"


def _precision_recall(summary: Summary, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    arms = {arm: d.curves for arm, d in summary.detections.arms.items() if d.curves}
    ious = sorted({iou for curves in arms.values() for iou in curves}, key=float)
    if not ious:
        return None
    figure = Figure((WIDTH, 3.5), layout="constrained")
    recall = np.linspace(0, 1, 101)
    for axes, iou in zip(figure.subplots(1, len(ious), squeeze=False).flat, ious, strict=True):
        for arm in gray_first(arms, styles):
            curve, look = arms[arm].get(iou), styles[arm]
            if curve is None:
                continue
            draw_line(axes, recall, curve.mean, look)
            draw_band(axes, recall, curve.low, curve.high, look)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision")
        axes.set_title(f"IoU ≥ {iou}")
    return arms_drawing(
        summary,
        styles,
        figure,
        arms,
        name="precision-recall",
        title="Precision against recall",
        caption=captions.PRECISION_RECALL,
    )


def _by_size(summary: Summary, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    rows = {
        label: {scores.arm: scores.metrics[metric] for scores in summary.equal.arms}
        for metric, label in SIZES.items()
    }
    rows["AR, all sizes"] = {arm: d.recall for arm, d in summary.detections.arms.items()}
    return _dot_rows(
        summary,
        rows,
        styles,
        "AP (AR in the last row), percent",
        name="ap-by-size",
        title="AP by object size",
        caption=captions.BY_SIZE,
    )


def _by_class(summary: Summary, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    classes = summary.detections.classes
    if not classes:
        return None
    rows = {
        _class_label(
            classes[i].label,
            classes[i].train_objects if summary.trained else classes[i].val_objects,
        ): {arm: d.per_class[i] for arm, d in summary.detections.arms.items()}
        for i in shown_classes(classes)
    }
    return _dot_rows(
        summary,
        rows,
        styles,
        "AP, percent",
        name="ap-by-class",
        title="AP by class, the most frequent first",
        caption=captions.by_class("training" if summary.trained else "test")
        + left_out_classes(classes, "per_class.csv"),
    )


def _class_label(name: str, objects: int | None) -> str:
    name = shorten(name, 24)
    return name if objects is None else f"{name}  ({objects:,})"


def _error_types(summary: Summary, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    rows = {
        kind: {arm: d.errors[kind] for arm, d in summary.detections.arms.items()}
        for kind in ERROR_TYPES
    }
    return _dot_rows(
        summary,
        rows,
        styles,
        "gain of AP50, percentage points",
        name="error-types",
        title="Cost of each error type",
        caption=captions.ERROR_TYPES,
    )


def _dot_rows(
    summary: Summary,
    rows: Mapping[str, Mapping[str, Spread]],
    styles: Mapping[str, ArmStyle],
    label: str,
    **texts: str,
) -> Drawing | None:
    """Draw the arms below each other in each of ``rows``, without the rows that have no number."""
    rows = {name: row for name, row in rows.items() if any(s.n for s in row.values())}
    if not rows:
        return None
    drawn = {arm for row in rows.values() for arm, spread in row.items() if spread.n}
    arms = [arm for arm in summary.arms if styles[arm].colored and arm in drawn]
    height = max(ROW, 0.1 * len(arms) + 0.1)
    figure = Figure((WIDTH, 0.95 + height * len(rows)), layout="constrained")
    axes = figure.subplots()
    offsets = np.linspace(-0.36, 0.36, len(arms)) if len(arms) > 1 else np.zeros(1)
    for y, row in enumerate(rows.values()):
        if y:
            axes.axhline(y - 0.5, color=GRID, linewidth=0.6)
        for arm, offset in zip(arms, offsets, strict=True):
            _dot(axes, y + offset, row.get(arm), styles[arm])
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=min(0, axes.get_xlim()[0]))
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label)
    return arms_drawing(summary, styles, figure, arms, **texts)


def _dot(axes: Axes, y: float, spread: Spread | None, look: ArmStyle) -> None:
    if spread is None or spread.mean is None:
        return
    numbers = list(spread.numbers.values())
    axes.plot((min(numbers), max(numbers)), (y, y), color=look.color, linewidth=1.4)
    axes.plot(spread.mean, y, look.marker, color=look.color, ms=4.6, mec=PAPER, mew=0.5)


def _cost(summary: Summary, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    arms = [arm for arm in reversed(summary.arms) if summary.costs[arm].iteration_s.n]
    if not arms:
        return None
    figure = Figure((WIDTH, 0.75 + 0.26 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, key, label in (
        (left, "iteration_s", "seconds per iteration"),
        (right, "peak_memory_mib", "peak memory, MiB"),
    ):
        for y, arm in enumerate(arms):
            _dot(axes, y, getattr(summary.costs[arm], key), styles[arm])
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    left.set_yticks(range(len(arms)), [shorten(arm, 26) for arm in arms])
    left.set_ylim(-0.6, len(arms) - 0.4)
    return Drawing(
        name="cost",
        title="Cost of an arm",
        caption=captions.COST,
        figure=figure,
    )
