"""Figures of a report over several datasets or folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...pages.drawing import WIDTH, Drawing, shorten
from ...pages.plotting import INK, MUTED, PAPER, style
from ...pages.text import plain, signed
from ..analysis.collected import Collected
from ..analysis.over_datasets import OverDatasets
from ..analysis.ranks import Ranks
from .arm_styles import ArmStyle, arm_styles
from .precision import digits_of, is_decided

ROW = 0.26  # inches
CAPTION = (
    "Thin lines: mean and 95% interval over the seeds on one {kind}. Thick line: mean over all "
    "{kind}s with its 95% interval; the diamond is filled if the verdict is higher or lower."
)
RANKS = (
    "Mean rank over {count} datasets, 1 is the best. Arms that a bar joins do not differ "
    "significantly (Nemenyi's test at 5%). CD: critical difference."
)


def draw_collected(collected: Collected) -> list[Drawing]:
    """Draw all figures that have data."""
    others = [each.arm for each in collected.equal]
    styles = arm_styles(collected.arms, collected.reference, [collected.reference, *others])
    with style():
        made = [
            _forest(collected, collected.equal, styles, "forest-datasets"),
            _forest(collected, collected.best or (), styles, "forest-datasets-best"),
            None if collected.ranks is None else _rank_diagram(collected.ranks, styles),
        ]
    return [drawing for drawing in made if drawing is not None]


def _forest(
    collected: Collected,
    found: Sequence[OverDatasets],
    styles: Mapping[str, ArmStyle],
    name: str,
) -> Drawing | None:
    shown = [each for each in found if each.difference is not None]
    if not shown:
        return None
    best = name.endswith("best")
    labels: list[str] = []
    numbers: list[str] = []
    rows = sum(len(each.datasets) + 2 for each in shown) - 1
    figure = Figure((WIDTH, 0.8 + ROW * rows), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=1)
    for each in shown:
        if labels:
            labels.append("")
            numbers.append("")
        _draw_mean(axes, len(labels), each, styles[each.arm])
        labels.append(shorten(each.arm, 24))
        numbers.append(_numbers(each))
        for dataset in each.datasets:
            summary = collected.members[dataset]
            standing = summary.best if best else summary.equal
            verdict = standing.verdict(each.arm) if standing else None
            if verdict is None or verdict.difference is None:
                continue
            row, difference = len(labels), verdict.difference
            if difference.interval is not None:
                axes.plot(difference.interval, (row, row), color=styles[each.arm].color, lw=0.8)
            axes.plot(difference.mean, row, "o", color=styles[each.arm].color, ms=3.5)
            labels.append(f"{shorten(dataset, 24)}  ")
            numbers.append(signed(difference.mean, digits_of(verdict)))
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"AP minus that of {shorten(collected.reference)}, percentage points")
    beside = axes.twinx()
    beside.set_ylim(axes.get_ylim())
    beside.set_yticks(range(len(numbers)), numbers)
    beside.grid(visible=False)
    for side in ("left", "right"):
        beside.spines[side].set_visible(False)
    at_best = ", at each arm's best setting" if best else ""
    return Drawing(
        name=name,
        title=f"Difference in AP to {plain(collected.reference)} on each {collected.kind}{at_best}",
        caption=CAPTION.format(kind=collected.kind),
        figure=figure,
    )


def _draw_mean(axes: Axes, row: int, each: OverDatasets, look: ArmStyle) -> None:
    difference = each.difference
    assert difference is not None  # only such rows are drawn
    if difference.interval is not None:
        axes.plot(difference.interval, (row, row), color=look.color, linewidth=2)
    face = look.color if is_decided(each) else PAPER
    axes.plot(difference.mean, row, "D", color=look.color, mfc=face, ms=6, mew=1.5)


def _numbers(each: OverDatasets) -> str:
    difference = each.difference
    assert difference is not None  # only such rows are drawn
    digits = digits_of(each)
    text = signed(difference.mean, digits)
    if difference.interval is None:
        return text
    low, high = (signed(limit, digits) for limit in difference.interval)
    return f"{text}   [{low}, {high}]"


def _rank_diagram(ranks: Ranks, styles: Mapping[str, ArmStyle]) -> Drawing:
    """Draw the critical-difference diagram of Demsar (2006)."""
    arms, worst = list(ranks.mean), len(ranks.mean)
    height = 1.1 + 0.12 * worst + 0.12 * len(ranks.groups)
    figure = Figure((WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.plot((1, worst), (0, 0), color=INK, linewidth=1)
    for rank in range(1, worst + 1):
        axes.plot((rank, rank), (0, 0.25), color=INK, linewidth=1)
        axes.text(rank, 0.35, str(rank), ha="center", va="bottom")
    axes.plot((1, 1 + ranks.critical_difference), (1.5, 1.5), color=INK, linewidth=2)
    axes.text(1, 1.7, f"CD = {ranks.critical_difference:.2f}", ha="left", va="bottom")
    for i, group in enumerate(ranks.groups):
        bar = (ranks.mean[group[0]] - 0.03, ranks.mean[group[-1]] + 0.03)
        axes.plot(bar, (-0.45 - 0.4 * i,) * 2, color=MUTED, linewidth=4, solid_capstyle="butt")
    below = -0.6 - 0.4 * len(ranks.groups)
    left, right = 0.9, max(worst, 1 + ranks.critical_difference) + 0.1
    half = (worst + 1) // 2
    # No lines cross if those of the outer arms are above those of the inner ones
    places = [(arm, i, left) for i, arm in enumerate(arms[:half])]
    places += [(arm, i, right) for i, arm in enumerate(reversed(arms[half:]))]
    for arm, row, side in places:
        place, y, look = ranks.mean[arm], below - 0.75 * (row + 1), styles[arm]
        axes.plot((place, place, side), (0, y, y), color=look.color, linewidth=1)
        axes.plot(place, 0, look.marker, color=look.color, ms=5, clip_on=False)
        if side == left:
            axes.text(side, y, f"{shorten(arm, 24)}  {place:.2f} ", ha="right", va="center")
        else:
            axes.text(side, y, f" {place:.2f}  {shorten(arm, 24)}", ha="left", va="center")
    axes.set_xlim(left - 0.01, right + 0.01)
    axes.set_ylim(below - 0.75 * half - 0.5, 2.6)
    return Drawing(
        name="ranks",
        title="Mean ranks with the critical difference",
        caption=RANKS.format(count=len(ranks.datasets)),
        figure=figure,
    )
