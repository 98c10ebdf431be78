"""Parts that several figures of a report share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from ...pages.drawing import Drawing, log_labels, shorten
from ..analysis.summary import Summary
from .arm_styles import ArmStyle, arm_styles

BAND = 0.14  # opacity
LOG_FROM = 20.0  # ratio of largest to smallest value above which an axis is logarithmic


def draw_line(axes: Axes, x: ArrayLike, y: ArrayLike, look: ArmStyle) -> None:
    """Draw the line of an arm."""
    width = 1.5 if look.colored else 0.8
    axes.plot(x, y, color=look.color, linestyle=look.dash, linewidth=width)


def draw_band(axes: Axes, x: ArrayLike, low: ArrayLike, high: ArrayLike, look: ArmStyle) -> None:
    """Draw the band from the lowest to the highest seed, but not for a gray arm."""
    if look.colored:
        axes.fill_between(x, low, high, color=look.color, alpha=BAND, linewidth=0)


def gray_first(arms: Iterable[str], styles: Mapping[str, ArmStyle]) -> list[str]:
    """Return the arms in the order of drawing, so that the colored ones are on top."""
    return sorted(arms, key=lambda arm: styles[arm].colored)


def log_if_wide(axes: Axes, values: list[float]) -> None:
    """Make the y axis logarithmic if the values are positive and far apart."""
    positive = [value for value in values if value > 0]
    if positive and len(positive) == len(values) and max(values) / min(values) > LOG_FROM:
        axes.set_yscale("log")
        log_labels(axes.yaxis)


def draw_legend(
    figure: Figure, summary: Summary, styles: Mapping[str, ArmStyle], drawn: Collection[str]
) -> None:
    """Draw the legend of the arms of ``drawn`` above the figure; it only counts gray arms."""
    arms = [arm for arm in summary.arms if styles[arm].colored and arm in drawn]
    names, looks = [shorten(arm, 26) for arm in arms], [styles[arm] for arm in arms]
    gray = [styles[arm] for arm in drawn if not styles[arm].colored]
    if gray:
        names.append(f"{len(gray)} more")
        looks.append(gray[0])
    handles = [
        Line2D([], [], color=s.color, linestyle=s.dash, marker=s.marker, ms=4.6) for s in looks
    ]
    longest = max(map(len, names))
    columns = max(1, min(len(names), int(110 / (longest + 8))))
    # matplotlib fills columns first; this order makes the rows follow the order of the arms
    order = [k for column in range(columns) for k in range(column, len(names), columns)]
    # matplotlib skips labels that start with "_", so the names are set afterwards
    legend = figure.legend(
        [handles[k] for k in order],
        ["x" * len(names[k]) for k in order],
        loc="outside upper left",
        ncols=columns,
    )
    for text, k in zip(legend.get_texts(), order, strict=True):
        text.set_text(names[k])


def left_out(summary: Summary) -> str:
    """Return the end of a caption if not all arms are in color."""
    styles = arm_styles(summary.arms, summary.reference, list(summary.shown))
    colored = sum(look.colored for look in styles.values())
    if colored == len(summary.arms):
        return ""
    return (
        f" Of {len(summary.arms)} arms, the reference and the {colored - 1} arms that differ most "
        f"from it are in color; the tables have all."
    )


def arms_drawing(
    summary: Summary,
    styles: Mapping[str, ArmStyle],
    figure: Figure,
    drawn: Collection[str],
    *,
    name: str,
    title: str,
    caption: str,
) -> Drawing:
    """Return the drawing of a figure that shows the arms of ``drawn``, with its legend."""
    draw_legend(figure, summary, styles, drawn)
    return Drawing(name, title, caption + left_out(summary), figure)
