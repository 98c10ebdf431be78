"""Figures of the page of an audit, drawn from its facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from ..pages.drawing import WIDTH, Drawing, log_labels, shorten
from ..pages.plotting import INK, MUTED, PALETTE, PAPER, REST, style
from .page_order import left_out, worst_classes

Facts = dict[str, Any]

ROW = 0.26  # inches
MOST_LINES = 6
MOST_ROWS = 20
MARKERS = ("s", "D", "^", "v", "P", "X")


def draw_all(facts: Facts) -> list[Drawing]:
    """Draw the figures of a dataset that has objects; none without objects."""
    if not facts["images"]["objects"]:
        return []
    with style():
        return [
            _recall_by_side(facts),
            _sides(facts),
            _positives(facts),
            _levels(facts),
        ]


def _name(facts: Facts, index: int) -> str:
    return shorten(facts["classes"]["per_class"][index]["name"])


def _recall_by_side(facts: Facts) -> Drawing:
    edges = np.array(facts["sides"]["edges"])
    rows = facts["sides"]["per_class"]
    shown = worst_classes(facts, MOST_LINES)
    figure = Figure((WIDTH, 3.3), layout="constrained")
    axes = figure.subplots()
    place = np.sqrt(edges[:-1] * edges[1:])
    handles = axes.plot(place, _recall(rows), color=REST, linewidth=5, solid_capstyle="butt")
    for i, c in enumerate(shown):
        line = axes.plot(place, _recall([rows[c]]), color=PALETTE[i], marker=MARKERS[i], ms=4.5)
        handles += line
    _legend(figure, handles, ["all classes", *(_name(facts, c) for c in shown)])
    _side_axis(axes, edges)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("objects with an anchor of IoU .5")
    return Drawing(
        "recall-by-side",
        "Recall of the anchors by the side of the object",
        "Share of the objects with an anchor of IoU .5. An object without one is learned from its "
        "best anchor only, if at all. The side is the square root of the area, in pixels of the "
        "network's input." + left_out(facts, len(shown)),
        figure,
    )


def _recall(rows: Sequence[Facts]) -> np.ndarray:
    """Return the recall of each bin; NaN, which is a gap in a line, for a bin without objects."""
    objects, reached = _total(rows, "objects"), _total(rows, "reached")
    return np.divide(reached, objects, out=np.full(len(objects), np.nan), where=objects > 0)


def _total(rows: Sequence[Facts], key: str) -> np.ndarray:
    return np.sum([row[key] for row in rows], axis=0)


def _sides(facts: Facts) -> Drawing:
    edges = np.array(facts["sides"]["edges"])
    objects, reached = (_total(facts["sides"]["per_class"], key) for key in ("objects", "reached"))
    figure = Figure((WIDTH, 3.3), layout="constrained")
    above, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.4))
    bars = [
        axes.bar(edges[:-1], reached, np.diff(edges), align="edge", color=PALETTE[0]),
        axes.bar(
            edges[:-1], objects - reached, np.diff(edges), reached, align="edge", color=PALETTE[1]
        ),
    ]
    for bar in bars:
        for patch in bar:
            patch.set(edgecolor=PAPER, linewidth=0.7)
    axes.set_ylabel("objects")
    offered = facts["proposal"]["after"]
    sets = [("config", facts["detector"]["sizes"], INK)]
    sets += [("proposal", offered["sizes"], PALETTE[2])] if offered else []
    ticks = [_mark_sizes(above, row, sizes, color) for row, (_, sizes, color) in enumerate(sets)]
    above.set_yticks(range(len(sets)), [name for name, *_ in sets])
    above.set_ylim(len(sets) - 0.4, -0.6)
    above.grid(visible=False)
    above.spines[["left", "bottom"]].set_visible(False)
    _legend(
        figure,
        [bars[0], bars[1], ticks[0]],
        ["with an anchor of IoU .5", "without one", "an anchor size"],
    )
    _side_axis(axes, np.append(edges, [size for _, sizes, _ in sets for x in sizes for size in x]))
    larger = ""
    if offered and offered["short"] != facts["detector"]["frame"]["short"]:
        larger = f" The proposal is for {offered['short']} px, where objects are larger."
    return Drawing(
        "sides",
        "Sides of the objects and sizes of the anchors",
        "Objects by their side in pixels of the network's input, and every anchor size, the finest "
        f"level at the left.{larger}",
        figure,
    )


def _mark_sizes(axes: Axes, row: int, sizes: Sequence[Sequence[float]], color: str) -> Any:
    values = [size for level in sizes for size in level]
    marks = axes.plot(values, [row] * len(values), "|", color=color, ms=11, mew=1.4)
    return marks[0]


def _positives(facts: Facts) -> Drawing:
    shown = worst_classes(facts, MOST_ROWS)
    anchors, classes = facts["anchors"]["per_class"], facts["classes"]["per_class"]
    figure = Figure((WIDTH, 1.0 + ROW * len(shown)), layout="constrained")
    axes = figure.subplots()
    handles: dict[str, Any] = {}
    for row, c in enumerate(shown):
        objects, positives = classes[c]["share"], anchors[c]["share_of_positives"] or 0
        fewer = positives < objects
        color = PALETTE[1] if fewer else PALETTE[0]
        axes.plot((objects, positives), (row, row), color=color, linewidth=1.6)
        dots = axes.plot(objects, row, "o", color=INK, mfc=PAPER, ms=5.5, mew=1.3)
        handles["share of the objects"] = dots[0]
        of_positives = axes.plot(positives, row, "D", color=color, ms=5)
        handles[f"share of the positive anchors{', smaller' if fewer else ''}"] = of_positives[0]
    _rows(axes, [_name(facts, c) for c in shown])
    _legend(figure, list(handles.values()), list(handles))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    return Drawing(
        "positives",
        "Share of the objects and of the positive anchors, by class",
        "The loss sees the positive anchors and not the objects. A class with a smaller share of "
        "them is rarer for the loss than in the data." + left_out(facts, len(shown)),
        figure,
    )


def _levels(facts: Facts) -> Drawing:
    anchors, levels = facts["anchors"], facts["anchors"]["levels"]
    shown = worst_classes(facts, MOST_ROWS)
    rows = [("all classes", anchors["positives_by_level"])]
    rows += [(_name(facts, c), anchors["per_class"][c]["positives_by_level"]) for c in shown]
    figure = Figure((WIDTH, 1.0 + ROW * len(rows)), layout="constrained")
    axes = figure.subplots()
    shares = np.array([share or [0] * len(levels) for _, share in rows])
    left, bars = np.zeros(len(rows)), []
    for level in range(len(levels)):
        color = PALETTE[level] if level < len(PALETTE) else REST
        share = shares[:, level]
        bars.append(
            axes.barh(
                range(len(rows)), share, 0.62, left, color=color, edgecolor=PAPER, linewidth=0.7
            )
        )
        left += share
    _rows(axes, [name for name, _ in rows])
    _legend(figure, bars, [shorten(str(name)) for name in levels])
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return Drawing(
        "levels",
        "Positive anchors by feature level",
        "Share of the positive anchors of a class on each level, the finest one at the left. A "
        "level without any adds background only." + left_out(facts, len(shown)),
        figure,
    )


def _rows(axes: Axes, names: list[str]) -> None:
    """Label rows, the first one at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)


def _side_axis(axes: Axes, sides: np.ndarray) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(sides.min() / 1.1, sides.max() * 1.1)
    log_labels(axes.xaxis)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("side, pixels of the network's input", color=MUTED)


def _legend(figure: Figure, handles: list[Any], names: list[str]) -> None:
    # matplotlib skips labels that start with "_", so the names are set afterwards
    columns = min(len(names), max(1, 100 // (max(map(len, names)) + 6)))
    legend = figure.legend(
        handles, ["x" * len(name) for name in names], loc="outside upper left", ncols=columns
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
