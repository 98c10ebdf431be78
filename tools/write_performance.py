#!/usr/bin/env python3
r"""
Write the tables and the figure of `docs/performance.md` from the results of the benchmarks.

    $ python tools/benchmarks/run_all.py output/bench --slow
    $ python tools/write_performance.py output/bench

Parts without a new measurement do not change. The interpretation is written by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pages import fill

from focal_plugin.files import write_text
from focal_plugin.pages import plotting

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "performance.md"
FIGURE = DOCS / "images" / "dense-loss.png"
SIZES = ("128", "256", "512", "800x1344")
LINES = {
    "stock": (plotting.PALETTE[1], "s"),
    "ours, eager": (plotting.PALETTE[2], "D"),
    "ours, cpp": (plotting.PALETTE[0], "o"),
    "copy": (plotting.MUTED, "x"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="output folder of run_all.py")
    folder = parser.parse_args().folder
    measured, tuned = read(folder), read(folder / "tuned")
    page = PAGE.read_text(encoding="utf-8")
    for name, facts in measured.items():
        if f"<!-- {name}:" in page:
            rows = facts["rows"]
            if name in tuned:
                rows = beside(rows, tuned[name]["rows"])
            content = f"{table(rows)}\n\n{caption(facts['machine'])}"
            page = fill(page, name, "write_performance", content)
    write_text(PAGE, page)
    sizes = [measured[f"dense-loss-{size}"] for size in SIZES if f"dense-loss-{size}" in measured]
    if len(sizes) == len(SIZES):
        FIGURE.write_bytes(plotting.png(draw(sizes)))


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return name -> measurement of each file in a folder, which may be missing."""
    files = sorted(folder.glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def beside(rows: list[dict[str, Any]], tuned: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with the times and ratios of the tuned allocator in columns of their own."""
    columns = [*rows[0]]
    time = columns[columns.index("p20") - 1]
    joined: list[dict[str, Any]] = []
    for row, other in zip(rows, tuned, strict=True):
        joined.append({})
        for column in columns:
            joined[-1][column] = row[column]
            if column == "p80":
                joined[-1][f"{time}, tuned"] = other[time]
            elif column.startswith("x ") or column == "of copy":
                joined[-1][f"{column}, tuned"] = other[column]
    return joined


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table; "p20" and "p80" are part of the column before them."""
    columns = [column for column in rows[0] if column not in ("p20", "p80")]
    lines = [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
    for row in rows:
        cells = [_cell(row, column) for column in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def caption(machine: dict[str, Any]) -> str:
    """Return the command and the machine."""
    command = machine["command"].split(" --json")[0]
    settings = ", ".join(f"{key}={value}" for key, value in machine["settings"].items())
    return (
        f"(`{command}`: {machine['processor']}, {machine['threads']} threads, "
        f"{machine['vectors']}, torch {machine['torch']}, {machine['allocator']}"
        f"{', ' + settings if settings else ''}; medians, 20 to 80 % of rounds in brackets)"
    )


def draw(sizes: list[dict[str, Any]]) -> Figure:
    """Draw time, memory and copy speed share of the classification loss over its size."""
    with plotting.style():
        figure = Figure(figsize=(9.6, 3.1), layout="constrained")
        time, memory, share = figure.subplots(1, 3)
        logits = [facts["num_logits"] / 1e6 for facts in sizes]
        for name, (color, marker) in LINES.items():
            look = {"color": color, "marker": marker, "markersize": 4, "label": name}
            time.plot(logits, _column(sizes, name, "ms"), **look)
            memory.plot(logits, _column(sizes, name, "extra MiB"), **look)
            share.plot(logits, [100 * x for x in _column(sizes, name, "of copy")], **look)
        for axes, title in (
            (time, "Forward and backward, ms"),
            (memory, "Memory beyond the logits, MiB"),
            (share, "Speed, % of a copy's"),
        ):
            axes.set_title(title)
            axes.set_xlabel("million logits")
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        for axes in (time, memory):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        share.set_ylim(bottom=0)
        time.legend()
    return figure


def _column(sizes: list[dict[str, Any]], name: str, column: str) -> list[float]:
    return [next(row[column] for row in facts["rows"] if row["variant"] == name) for facts in sizes]


def _cell(row: dict[str, Any], column: str) -> str:
    text = _short(row[column])
    following = list(row)[list(row).index(column) + 1 :][:2]
    if following == ["p20", "p80"]:
        text += f" ({_short(row['p20'])} - {_short(row['p80'])})"
    return text


def _short(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2g}" if abs(value) < 0.1 else f"{value:.3g}"


if __name__ == "__main__":
    main()
