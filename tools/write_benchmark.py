#!/usr/bin/env python3
"""
Write the generated parts of `docs/shapes-benchmark.md` and its figures from finished comparisons.

    focal-compare run configs/comparisons/shapes_benchmark.yaml
    focal-compare run configs/comparisons/shapes_learning_rates.yaml
    python tools/write_benchmark.py runs/shapes_benchmark runs/shapes_learning_rates

Pass one or both. The interpretation of the numbers is written by hand.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

from pages import fill

from focal_plugin.compare.analysis.summary import Summary
from focal_plugin.compare.report import tables, tuning_section
from focal_plugin.compare.report.markdown import markdown_table
from focal_plugin.compare.report.write import write_report
from focal_plugin.files import write_text
from focal_plugin.pages.table import Table

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "shapes-benchmark.md"
FIGURES = DOCS / "images" / "shapes-benchmark"

Make = Callable[[Summary], Table | None]
PARTS: dict[str, dict[str, Make]] = {
    "shapes_benchmark": {
        "verdict": lambda summary: tables.verdict_table(summary, summary.equal),
        "averages": tables.averages_table,
        "classes": tables.class_table,
        "errors": tables.error_table,
        "start": lambda summary: tables.audit_table(summary, "retinanet", "start"),
        "final": lambda summary: tables.audit_table(summary, "retinanet", "final"),
        "cost": tables.cost_table,
        "configs": tables.config_table,
        "starts": tables.start_table,
    },
    "shapes_learning_rates": {
        "equal rates": lambda summary: tables.verdict_table(summary, summary.equal),
        "rates": tuning_section.tuning_table,
        "best rates": lambda summary: (
            None if summary.best is None else tables.verdict_table(summary, summary.best)
        ),
    },
}
"""Name of a comparison -> part of the page -> function that creates its table."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUNS_DIR")
    page = PAGE.read_text(encoding="utf-8")
    for folder in parser.parse_args().runs:
        files = write_report(folder)
        for part, make in PARTS[files.summary.name].items():
            table = make(files.summary)
            if table is None:
                raise ValueError(f"the runs have no data for {part}")
            page = fill(page, part, "write_benchmark", markdown_table(table))
        if files.summary.name == PAGE.stem.replace("-", "_"):
            take_over_figures(page, folder)
    write_text(PAGE, page)


def take_over_figures(page: str, folder: Path) -> None:
    """Copy the figures of the report that the page shows."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    for figure in sorted((folder / "figures").glob("*.png")):
        if f"images/shapes-benchmark/{figure.name}" in page:
            shutil.copyfile(figure, FIGURES / figure.name)


if __name__ == "__main__":
    main()
