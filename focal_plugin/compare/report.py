"""The results of a comparison as one table: on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from .results import AVERAGES, Result


def format_table(results: list[Result]) -> str:
    """
    A Markdown table with a row for each run; AP in percent, "-" where there is nothing to find.
    """
    classes = list(results[0].ap_per_class)
    header = ["arm", "seed", *AVERAGES, *classes, "s/iter", "memory MiB"]
    rows = [
        [
            result.arm,
            result.seed,
            *(_percent(result.ap[name]) for name in AVERAGES),
            *(_percent(result.ap_per_class.get(name)) for name in classes),
            f"{result.iteration_s:.3f}",
            f"{result.peak_memory_mib:.0f}",
        ]
        for result in results
    ]
    align = ["left", *["right"] * (len(header) - 1)]
    return tabulate(rows, header, tablefmt="github", colalign=align, disable_numparse=True)


def best(results: list[Result]) -> Result:
    """The run with the highest AP; one without an AP (nothing detected) comes last."""
    return max(results, key=lambda result: -1.0 if result.ap["AP"] is None else result.ap["AP"])


def write_report(results: list[Result], folder: Path) -> tuple[Path, Path]:
    """
    Write `table.md` and `table.json` into ``folder``.

    Returns:
        the two paths.
    """
    markdown, data = folder / "table.md", folder / "table.json"
    markdown.write_text(format_table(results) + "\n", encoding="utf-8")
    content = [asdict(result) for result in results]
    data.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return markdown, data


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
