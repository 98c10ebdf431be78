#!/usr/bin/env python3
"""
Judge a published table again, from the detections of its rows.

    python tools/rejudge_table.py table.yaml --output reports/table

The table is a YAML file; paths are relative to it:

    ground_truth: instances_val2017.json
    images: val2017                       # optional: shows the images that differ most
    reference: RetinaNet                  # default: the first row
    tolerance: 0.05                       # default; AP is published with one decimal
    rows:
      RetinaNet: {files: [retinanet.json], AP: 36.5, AP50: 55.4}
      FCOS: {files: [fcos_1.json, fcos_2.json], AP: 38.6}

A row has the files of detections of its method, one per seed, and its published averages. First,
the mean of each average over the files must equal the published number within the tolerance. A row
that does not reproduce is not the published one, so then the exit code is 1 and there is no report,
unless --anyway is given. Then the files are judged as by `focal-compare judge`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from focal_plugin.compare.analysis.evaluated_runs import REPLICATES
from focal_plugin.compare.analysis.judged_files import JudgedFiles, summarize_files
from focal_plugin.compare.analysis.summary import Summary
from focal_plugin.compare.judge_command import check_output
from focal_plugin.compare.report.terminal import terminal_report
from focal_plugin.compare.report.write import write_summary
from focal_plugin.compare.report_command import check_replicates
from focal_plugin.compare.runs.result import AVERAGES
from focal_plugin.yaml_text import load, read_text

KEYS = {"ground_truth", "images", "reference", "tolerance", "rows", "title"}
TOLERANCE = 0.05
ROUNDING = 1e-9


@dataclass(frozen=True)
class PublishedTable:
    """
    Published table with the detections of its rows.

    Attributes:
        judged: its files.
        published: row -> average -> published number, percent.
        tolerance: largest difference, percent, of a number that reproduces.
    """

    judged: JudgedFiles
    published: dict[str, dict[str, float]]
    tolerance: float


def read_table(file: Path) -> PublishedTable:
    """
    Read a table.

    Raises:
        ValueError: the file is not such a table.
        FileNotFoundError: a file of it does not exist.
    """
    content = load(read_text(file), "the file")
    if not isinstance(content, dict) or not isinstance(content.get("rows"), dict):
        raise ValueError(f"{file}: must be a mapping with ground_truth and rows")
    unknown = sorted(map(str, content.keys() - KEYS))
    if unknown:
        known = ", ".join(sorted(KEYS))
        raise ValueError(f"{file}: no key is named {unknown[0]!r}; known: {known}")
    if not isinstance(content.get("ground_truth"), str):
        raise ValueError(f"{file}: ground_truth must name a COCO json")
    tolerance = content.get("tolerance", TOLERANCE)
    if type(tolerance) not in {int, float} or not tolerance >= 0:
        raise ValueError(f"{file}: tolerance must be a number >= 0, got {tolerance!r}")
    rows = {str(name): _row(row, f"{file}: {name}") for name, row in content["rows"].items()}
    folder, images = file.parent, content.get("images")
    judged = JudgedFiles(
        name=str(content.get("title", file.stem)),
        ground_truth=folder / content["ground_truth"],
        arms={name: tuple(folder / path for path in row["files"]) for name, row in rows.items()},
        reference=str(content.get("reference", next(iter(rows), ""))),
        images=None if images is None else folder / str(images),
    )
    published = {
        name: {metric: float(row[metric]) for metric in AVERAGES if metric in row}
        for name, row in rows.items()
    }
    return PublishedTable(judged, published, float(tolerance))


def _row(row: Any, where: str) -> dict[str, Any]:
    files = row.get("files") if isinstance(row, dict) else None
    if not isinstance(files, list) or not files or not all(isinstance(f, str) for f in files):
        raise ValueError(f"{where}: must be {{files: [FILE, ...], AP: NUMBER}}, got {row!r}")
    numbers = {key: value for key, value in row.items() if key != "files"}
    for key, value in numbers.items():
        if key not in AVERAGES or type(value) not in {int, float}:
            raise ValueError(f"{where}: {key} must be one of {', '.join(AVERAGES)}, with a number")
    if "AP" not in numbers:
        raise ValueError(f"{where}: has no published AP")
    return row


class Number(NamedTuple):
    """Published number and the measured one, percent; ``agree`` within the tolerance."""

    row: str
    average: str
    published: float
    measured: float
    agree: bool


def reproduction(table: PublishedTable, summary: Summary) -> list[Number]:
    """Compare every published number with the mean over the files of its row."""
    found = []
    for name, numbers in table.published.items():
        metrics = summary.equal.arm(name).metrics
        for metric, published in numbers.items():
            mean = metrics[metric].mean
            measured = 0.0 if mean is None else mean
            agree = abs(measured - published) <= table.tolerance + ROUNDING
            found.append(Number(name, metric, published, measured, agree))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, metavar="TABLE")
    parser.add_argument("--output", type=Path, default=Path("judged"), metavar="DIR")
    parser.add_argument("--replicates", type=int, default=REPLICATES, metavar="N")
    parser.add_argument(
        "--anyway", action="store_true", help="judge a table that does not reproduce, too"
    )
    args = parser.parse_args(argv)
    try:
        check_replicates(args.replicates)
        check_output(args.output)
        table = read_table(args.table)
        summary = summarize_files(table.judged, replicates=args.replicates)
    except (ValueError, OSError) as error:
        print(f"rejudge_table: {error}", file=sys.stderr)
        return 2
    numbers = reproduction(table, summary)
    cells = [
        (n.row, n.average, f"{n.published:.1f}", f"{n.measured:.2f}", "yes" if n.agree else "NO")
        for n in numbers
    ]
    header = ("row", "average", "published", "from the files", "reproduces")
    print(tabulate(cells, header, disable_numparse=True))
    reproduces = all(number.agree for number in numbers)
    if not reproduces and not args.anyway:
        print("The table does not reproduce, so there is no report.", file=sys.stderr)
        return 1
    files = write_summary(summary, args.output, root=Path())
    print(f"\n{terminal_report(summary)}\n\nThe report: {files.html}")
    return 0 if reproduces else 1


if __name__ == "__main__":
    sys.exit(main())
