#!/usr/bin/env python3
"""
Compare a run of RetinaNet on COCO with the log of the same config in Detectron2's model zoo.

    python tools/check_against_zoo.py METRICS_JSON RUN

METRICS_JSON is the zoo's log. The page MODEL_ZOO.md in Detectron2's repository links it in the last
column of each row, as `metrics`. The row `retinanet_R_50_FPN_1x` belongs to this run:

    python train_net.py --num-gpus 8 --config-file COCO-Detection/retinanet_R_50_FPN_1x.yaml

RUN is the output folder of a run, or its `metrics.json`. A run that stops early is compared without
its AP. Each process logs the positives of its own images, so train with 2 images per process.

The table shows the medians of what both logged in the first iterations, and AP at the end.
Exit code: 0 if all numbers agree, 1 if one is outside its tolerance, 2 for an unusable file.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from focal_plugin.compare.runs.result import parse_metrics
from focal_plugin.json_file import DamagedFileError
from focal_plugin.run_folder import METRICS_FILE

ITERATIONS = 1000

LOSSES = ("total_loss", "loss_cls", "loss_box_reg")
POSITIVES = "num_pos_anchors"
RATE = "lr"
AP = "bbox/AP"

TOLERANCES = {**dict.fromkeys(LOSSES, 0.05), POSITIVES: 0.1, RATE: 0.001}
"""Key -> largest relative difference."""

AP_TOLERANCE = 0.5
"""Largest difference of AP, the spread of identical runs in docs/statistics.md."""

FEWEST_LINES = 10


class MismatchError(ValueError):
    """Error for a log that is intact, but cannot be compared; the message names the file."""


@dataclass(frozen=True)
class Row:
    """One compared number; the tolerance is relative, or in AP if ``absolute``."""

    name: str
    zoo: float
    run: float
    tolerance: float
    absolute: bool = False

    @property
    def is_outside(self) -> bool:
        scale = 1.0 if self.absolute else abs(self.zoo)
        return not abs(self.run - self.zoo) <= self.tolerance * scale

    def cells(self) -> tuple[str, ...]:
        ratio = self.run / self.zoo if self.zoo else math.nan
        tolerance = f"{self.tolerance:g} AP" if self.absolute else f"{self.tolerance:.1%}"
        numbers = (f"{self.zoo:.5g}", f"{self.run:.5g}", f"{ratio:.4f}")
        return (self.name, *numbers, tolerance, "no" if self.is_outside else "yes")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and return the exit code."""
    args = _parser().parse_args(argv)
    run = args.run / METRICS_FILE if args.run.is_dir() else args.run
    try:
        rows = compare(args.metrics_json, run, args.iterations)
    except (OSError, DamagedFileError, MismatchError) as error:
        print(error, file=sys.stderr)
        return 2
    headers = ("figure", "zoo", "run", "ratio", "tolerance", "agrees")
    align = ("left", "right", "right", "right", "right", "left")
    cells = [row.cells() for row in rows]
    print(tabulate(cells, headers=headers, colalign=align, disable_numparse=True))
    if all(row.name != AP for row in rows):
        print(f"{run} ends before the last iteration of the zoo, so {AP} is not compared")
    return int(any(row.is_outside for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("metrics_json", type=Path, metavar="METRICS_JSON", help="log of the zoo")
    parser.add_argument("run", type=Path, metavar="RUN", help="output folder of our run")
    parser.add_argument(
        "--iterations",
        type=int,
        default=ITERATIONS,
        help=f"number of first iterations whose medians are compared; default: {ITERATIONS}",
    )
    return parser


def compare(zoo: Path, run: Path, iterations: int) -> list[Row]:
    """
    Compare the logs of the first iterations, and AP if both logs reach the same last iteration.

    Raises:
        OSError: a file cannot be read.
        DamagedFileError: a line of a file is no JSON object of numbers.
        MismatchError: a log lacks a number or iterations, or the run is longer than the zoo's.
    """
    logs = [(file, read_log(file)) for file in (zoo, run)]
    rows = []
    for key, tolerance in TOLERANCES.items():
        expected, found = (median_of(file, log, key, iterations) for file, log in logs)
        rows.append(Row(key, expected, found, tolerance))
    last, last_of_run = (log[-1]["iteration"] for _, log in logs)
    if last_of_run > last + 1:
        raise MismatchError(
            f"{run} has {last_of_run:,} iterations and {zoo} has {last:,}: another schedule"
        )
    # Detectron2 logs the evaluation at the last iteration, or at the one after it.
    if last_of_run >= last - 1:
        expected, found = (final_ap(file, log) for file, log in logs)
        rows.append(Row(AP, expected, found, AP_TOLERANCE, absolute=True))
    return rows


def read_log(file: Path) -> list[dict[str, Any]]:
    """
    Return what each iteration logged, in order; a resumed run repeats lines, and the last counts.

    Raises:
        OSError: the file cannot be read.
        DamagedFileError: a line is no JSON object of numbers, or there is no line.
    """
    by_iteration: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        metrics = parse_metrics(line)
        if metrics is None:
            raise DamagedFileError(
                file, f"line {number} is no JSON object of numbers with an iteration"
            )
        by_iteration.setdefault(metrics["iteration"], {}).update(metrics)
    if not by_iteration:
        raise DamagedFileError(file, "it has no line")
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def median_of(file: Path, log: list[dict[str, Any]], key: str, iterations: int) -> float:
    """
    Return the median of a number over the first iterations.

    Raises:
        MismatchError: the log has fewer than :data:`FEWEST_LINES` finite values of it there, or
            ends before.
    """
    if log[-1]["iteration"] < iterations - 1:
        raise MismatchError(
            f"{file} ends at iteration {log[-1]['iteration']:,}, before {iterations:,}"
        )
    values = [x[key] for x in log if x["iteration"] < iterations and key in x]
    if not values:
        raise MismatchError(f"{file} has no {key}: the log of another detector, or resumed")
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < FEWEST_LINES:
        raise MismatchError(
            f"{file} has {len(finite)} finite values of {key} in the first {iterations:,} "
            f"iterations, and {FEWEST_LINES} are needed"
        )
    return statistics.median(finite)


def final_ap(file: Path, log: list[dict[str, Any]]) -> float:
    """
    Return the last evaluation.

    Raises:
        MismatchError: the log has no AP after the last iteration.
    """
    last = log[-1]["iteration"]
    found = [x[AP] for x in log if AP in x and x["iteration"] >= last - 1]
    if not found or not math.isfinite(found[-1]):
        raise MismatchError(f"{file} has no {AP} after its last iteration, {last:,}")
    return float(found[-1])


if __name__ == "__main__":
    sys.exit(main())
