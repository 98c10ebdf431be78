"""
Command `focal-compare explain`: draws losses for easy and hard anchors, without training.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..components import import_components
from ..diagnostics.curves import LossCurve, trace_loss
from ..files import write_text

X_T = np.linspace(-6, 6, 481)
FORMATS = (".png", ".svg")
LOSS_LIMIT = 6.2
"""Upper limit of the loss axis, cross entropy at x_t = -6; larger losses are cut off."""

# Palette of Okabe and Ito for color-blind readers, without yellow, which is too light for a line
COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
MARKERS = ("", "o", "s", "^", "D")


def main(args: argparse.Namespace) -> int:
    """
    Write the figure and its curves.

    Returns:
        0.

    Raises:
        ValueError: a loss, one of its options or the format of the figure is unknown.
    """
    if args.output.suffix.lower() not in FORMATS:
        raise ValueError(f"--output must end in {' or '.join(FORMATS)}, got {args.output}")
    import_components(args.imports)
    curves = [trace_loss(text, X_T) for text in dict.fromkeys(args.losses)]
    if len(curves) > (most := len(COLORS) * len(MARKERS)):
        raise ValueError(f"at most {most} losses can be told apart, got {len(curves)}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw_curves(curves, args.output)
    table = args.output.with_suffix(".csv")
    write_text(table, curves_as_csv(curves))
    print(f"{args.output} and {table}")
    return 0


def curves_as_csv(curves: Sequence[LossCurve]) -> str:
    """Return the curves as CSV, one line per loss, side and point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "side", "x_t", "loss", "gradient"])
    for curve in curves:
        for name, side in (("positive", curve.positive), ("negative", curve.negative)):
            for x_t, loss, gradient in zip(curve.x_t, side.loss, side.gradient, strict=True):
                writer.writerow([curve.name, name, f"{x_t:g}", f"{loss:.6g}", f"{gradient:.6g}"])
    return text.getvalue()


def draw_curves(curves: Sequence[LossCurve], file: Path) -> None:
    """
    Draw two panels, loss and |gradient|.

    A dashed line shows the negatives if their curve differs. Losses with equal curves share one
    line, because one would hide the other.
    """
    groups = _same_curves(curves)
    height = 4.6 + 0.15 * (len(curves) + 1)  # the legend has two columns
    figure = Figure(figsize=(11, height), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, gradient_axes = figure.subplots(1, 2)
    for i, (curve, *others) in enumerate(groups):
        label = "\n= ".join([curve.name, *(other.name for other in others)])
        style = {
            "color": COLORS[i % len(COLORS)],
            "marker": MARKERS[i // len(COLORS)],
            "markevery": (i * 7 % 40, 40),
            "markersize": 5,
            "linewidth": 2.4 if i < len(COLORS) else 1.2,  # shows the line under it
        }
        for axes, values in ((loss_axes, "loss"), (gradient_axes, "gradient")):
            axes.plot(curve.x_t, getattr(curve.positive, values), label=label, **style)
            if not curve.is_symmetric:
                axes.plot(curve.x_t, getattr(curve.negative, values), linestyle="--", **style)
    loss_axes.set(title="loss", ylim=(0, _limit(curves, "loss")))
    gradient_axes.set(title="|gradient|", ylim=(0, _limit(curves, "gradient")))
    for axes in (loss_axes, gradient_axes):
        _finish(axes)
    _add_legend(figure, loss_axes, dashed=any(not curve.is_symmetric for curve in curves))
    figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)


def _same_curves(curves: Sequence[LossCurve]) -> list[list[LossCurve]]:
    groups: list[list[LossCurve]] = []
    for curve in curves:
        for group in groups:
            if group[0].equals(curve):
                group.append(curve)
                break
        else:
            groups.append([curve])
    return groups


def _limit(curves: Sequence[LossCurve], values: str) -> float:
    sides = [side for curve in curves for side in (curve.positive, curve.negative)]
    highest = max(float(np.nanmax(getattr(side, values))) for side in sides)
    return min(1.04 * highest, LOSS_LIMIT)


def _finish(axes: Axes) -> None:
    axes.set_xlim(X_T[0], X_T[-1])
    axes.set_xlabel(r"$x_t = y\,x$   (misclassified to the left of 0, $p_t = \sigma(x_t)$)")
    axes.axvline(0, color="0.7", linewidth=1, zorder=0)
    axes.grid(color="0.92", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(figure: Figure, axes: Axes, *, dashed: bool) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if dashed:
        handles.append(Line2D([], [], color="0.4", linestyle="--", linewidth=2))
        labels.append("negatives, if their curve differs")
    figure.legend(handles, labels, loc="outside lower center", ncol=2, frameon=False)
