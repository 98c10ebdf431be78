"""Figures of the training: losses, gradients and the loss of single anchors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...pages.drawing import WIDTH, Drawing, log_labels
from ...run_folder import GRADIENT_NORM_KEY, MOMENTS, validation_key
from ..analysis.loss_views import SHARES, LossView
from ..analysis.summary import Summary
from ..analysis.training import AP_KEY, LOSS_PREFIXES, Curve
from . import captions
from .arm_styles import ArmStyle
from .drawing import arms_drawing, draw_band, draw_line, gray_first, log_if_wide

VALIDATION = ", on training images and on fixed test images"
"""End of the title of the training curves."""


def draw_training(summary: Summary, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    """Draw every loss; None without metrics."""
    keys = list(dict.fromkeys(k for of_arm in summary.curves.values() for k in of_arm))
    keys = [k for k in keys if k.startswith(LOSS_PREFIXES)]
    if not keys:
        return None
    has_validation = False
    columns = min(len(keys), 2 if len(keys) in (2, 4) else 3)
    rows = math.ceil(len(keys) / columns)
    figure = Figure((WIDTH, 0.5 + 2.0 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, key in zip(grid, keys, strict=False):
        axes.set_title(key)
        axes.set_xlabel("iteration")
        drawn = {arm: c[key] for arm, c in summary.curves.items() if key in c}
        fixed = validation_key(key)
        on_fixed = {arm: c[fixed] for arm, c in summary.curves.items() if fixed in c}
        has_validation |= bool(on_fixed)
        _draw_curves(axes, drawn, styles)
        _draw_marked(axes, on_fixed, styles)
        log_if_wide(axes, _means(drawn) + _means(on_fixed))
    for axes in grid[len(keys) :]:
        axes.set_axis_off()
    return arms_drawing(
        summary,
        styles,
        figure,
        [arm for arm, c in summary.curves.items() if c],
        name="training",
        title="Losses during training" + (VALIDATION if has_validation else ""),
        caption=captions.TRAINING + (captions.VALIDATION if has_validation else ""),
    )


def draw_progress(summary: Summary, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    """Draw AP over the iterations; None unless a run was evaluated during training."""
    curves = {arm: c[AP_KEY] for arm, c in summary.curves.items() if AP_KEY in c}
    if not any(len(curve.iterations) > 1 for curve in curves.values()):
        return None
    figure = Figure((WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    _draw_curves(axes, curves, styles)
    for arm in gray_first(curves, styles):
        curve, look = curves[arm], styles[arm]
        if look.colored:
            axes.plot(curve.iterations, curve.mean, look.marker, color=look.color, ms=4.6)
    axes.set(xlabel="iteration", ylabel="AP, percent")
    axes.set_ylim(bottom=0)
    return arms_drawing(
        summary,
        styles,
        figure,
        curves,
        name="ap-over-training",
        title="AP over training",
        caption=captions.PROGRESS,
    )


def _draw_curves(axes: Axes, curves: Mapping[str, Curve], styles: Mapping[str, ArmStyle]) -> None:
    for arm in gray_first(curves, styles):
        curve, look = curves[arm], styles[arm]
        draw_line(axes, curve.iterations, curve.mean, look)
        if max(curve.runs) > 1:
            draw_band(axes, curve.iterations, curve.low, curve.high, look)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _draw_marked(axes: Axes, curves: Mapping[str, Curve], styles: Mapping[str, ArmStyle]) -> None:
    for arm in gray_first(curves, styles):
        curve, look = curves[arm], styles[arm]
        axes.plot(
            curve.iterations,
            curve.mean,
            color=look.color,
            linestyle=look.dash,
            linewidth=0.6,
            marker=look.marker,
            ms=3.6,
        )


def _means(curves: Mapping[str, Curve]) -> list[float]:
    return [value for curve in curves.values() for value in curve.mean]


def draw_gradient_norms(summary: Summary, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    """Draw gradient norms, in the first iterations and later; None without diagnostics."""
    first = {v.arm: v.first_norms for v in summary.losses.views if v.first_norms}
    later = {a: c[GRADIENT_NORM_KEY] for a, c in summary.curves.items() if GRADIENT_NORM_KEY in c}
    panels = [panel for panel in (first, later) if panel]
    if not panels:
        return None
    figure = Figure((WIDTH, 2.9), layout="constrained")
    grid = iter(figure.subplots(1, len(panels), squeeze=False).flat)
    if first:
        axes = next(grid)
        axes.set_title("first iterations")
        axes.set_ylabel("gradient norm")
        for arm in gray_first(first, styles):
            draw_line(axes, range(len(first[arm])), first[arm], styles[arm])
        log_if_wide(axes, [v for norms in first.values() for v in norms])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("iteration")
    if later:
        axes = next(grid)
        axes.set_title("whole training")
        axes.set_xlabel("iteration")
        _draw_curves(axes, later, styles)
        log_if_wide(axes, _means(later))
    return arms_drawing(
        summary,
        styles,
        figure,
        {*first, *later},
        name="gradient-norms",
        title="Norm of the gradient of all parameters",
        caption=captions.GRADIENT_NORMS,
    )


def draw_cumulative_loss(
    summary: Summary, part: str, styles: Mapping[str, ArmStyle]
) -> Drawing | None:
    """Draw the cumulative loss after training, or before it; None without snapshots."""
    views = summary.losses.of(part, "final") or summary.losses.of(part, "start")
    views = [view for view in views if view.cdf_pos or view.cdf_neg]
    if not views:
        return None
    figure = Figure((WIDTH, 3.5), layout="constrained")
    positives, negatives = figure.subplots(1, 2)
    for axes, which in ((positives, "cdf_pos"), (negatives, "cdf_neg")):
        curves = {view.arm: getattr(view, which) for view in views if getattr(view, which)}
        for arm in gray_first(curves, styles):
            draw_line(axes, SHARES, curves[arm], styles[arm])
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of their loss")
    positives.set_title("positives")
    negatives.set_title("negatives")
    positives.set_xlabel("share of the positives, the easiest first")
    negatives.set_xlabel("share of the negatives, the easiest first")
    when = f"after {views[0].iteration} iterations" if views[0].iteration else "before training"
    return arms_drawing(
        summary,
        styles,
        figure,
        [view.arm for view in views],
        name=f"loss-cdf-{part}",
        title=f"Distribution of the loss over the anchors, {when} ({part})",
        caption=captions.CUMULATIVE_LOSS,
    )


def draw_gradient_histogram(
    summary: Summary, part: str, styles: Mapping[str, ArmStyle]
) -> Drawing | None:
    """Draw gradient histograms before and after training; None without snapshots."""
    panels = [(moment, summary.losses.of(part, moment)) for moment in MOMENTS]
    panels = [(m, [v for v in views if v.gradient_edges]) for m, views in panels]
    panels = [(moment, views) for moment, views in panels if views]
    if not panels:
        return None
    figure = Figure((WIDTH, 3.3), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True).flat
    for axes, (moment, views) in zip(grid, panels, strict=True):
        _draw_histograms(axes, {view.arm: view for view in views}, styles)
        axes.set_title("before training" if moment == "start" else "after training")
    grid[0].set_ylabel("share of all (anchor, class)")
    return arms_drawing(
        summary,
        styles,
        figure,
        {view.arm for _, views in panels for view in views},
        name=f"gradient-histogram-{part}",
        title=f"Distribution of the gradients of the loss ({part})",
        caption=captions.GRADIENT_HISTOGRAM,
    )


def _draw_histograms(
    axes: Axes, views: Mapping[str, LossView], styles: Mapping[str, ArmStyle]
) -> None:
    shares = {arm: np.add(v.gradient_pos, v.gradient_neg) for arm, v in views.items()}
    floor = min(share[share > 0].min() for share in shares.values()) / 2
    for arm in gray_first(views, styles):
        edges, look = np.array(views[arm].gradient_edges), styles[arm]
        if edges[0] <= 0:  # a logarithmic axis has no 0
            edges[0] = edges[1] ** 2 / edges[2]
        axes.stairs(
            np.maximum(shares[arm], floor / 2),  # an empty bin is below the visible range
            edges,
            baseline=None,
            color=look.color,
            linestyle=look.dash,
            linewidth=1.4 if look.colored else 0.8,
        )
    axes.set(xscale="log", yscale="log", xlabel="|d loss / d logit|, of a training step")
    axes.set_ylim(bottom=floor)
    for axis in (axes.xaxis, axes.yaxis):
        log_labels(axis)
