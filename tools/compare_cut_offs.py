#!/usr/bin/env python3
"""
Show what score cut-offs do to the numbers of finished runs, from detections kept at a low score.

    focal-compare run configs/comparisons/demo.yaml
    python tools/compare_cut_offs.py runs/demo --cut-offs 0.001 0.05

Detections below a cut-off are left out, and the rest is evaluated again. The result is that of a
detector with this cut-off, because it comes before all limits on the number of detections. With
--page FILE, the table goes between the marks of "cut-offs" in a page.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from pages import fill

from focal_plugin.compare.analysis.detections.average_precision import Evaluation, evaluate
from focal_plugin.compare.analysis.detections.coco_json import read_ground_truth
from focal_plugin.compare.analysis.detections.error_types import error_types
from focal_plugin.compare.plan.comparison import Comparison
from focal_plugin.compare.report.markdown import markdown_table
from focal_plugin.compare.runs.run_folder import RunFolder, read_run_folders
from focal_plugin.files import write_text
from focal_plugin.pages.table import Table

CUT_OFFS = (0.001, 0.05)
HEADER = ("arm", "score above", "detections", "AP", "AR", "AP50", "missed, AP50", "missed objects")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, metavar="RUNS_DIR")
    parser.add_argument("--cut-offs", type=float, nargs="+", default=CUT_OFFS, metavar="SCORE")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the table into this page")
    args = parser.parse_args(argv)
    table = markdown_table(cut_off_table(args.runs, args.cut_offs))
    if args.page is None:
        print(table)
    else:
        page = args.page.read_text(encoding="utf-8")
        write_text(args.page, fill(page, "cut-offs", "compare_cut_offs", table))


def cut_off_table(folder: Path, cut_offs: list[float]) -> Table:
    """Return one row for each arm and cut-off: means over the finished runs."""
    comparison = Comparison.read(folder)
    runs = [run for run in read_run_folders(comparison, folder) if run.detections is not None]
    rows = []
    for arm in comparison.arms:
        measured = [numbers(run, cut_offs) for run in runs if run.run.arm == arm]
        for cut_off, of_runs in zip(cut_offs, zip(*measured, strict=True), strict=False):
            detections, ap, ar, ap50, cost, missed = map(mean, zip(*of_runs, strict=True))
            cells = (f"{100 * value:.1f}" for value in (ap, ar, ap50, cost))
            row = (arm, f"{cut_off:g}", f"{detections:,.0f}", *cells, f"{missed:,.0f}")
            rows.append(row)
    return Table("cut-offs", HEADER, tuple(rows))


def numbers(run: RunFolder, cut_offs: list[float]) -> list[tuple[float, ...]]:
    """Return the numbers of a run at each cut-off."""
    assert run.detections is not None  # the caller chose such runs
    assert run.environment is not None
    truth = read_ground_truth(Path(run.environment.test[0].json_file or ""))
    evaluation = evaluate(truth, run.detections)
    return [tuple(_at(evaluation, cut_off)) for cut_off in cut_offs]


def _at(evaluation: Evaluation, cut_off: float) -> Iterator[float]:
    above = evaluation.detections.score > cut_off
    kept = evaluation.keep(above)
    averages = kept.average_precision(metrics=("AP", "AR", "AP50")).averages
    errors = error_types(kept)
    yield float(above.sum())
    yield from averages.values()
    yield errors.cost["missed"]
    yield errors.counts["missed"]


if __name__ == "__main__":
    main()
