"""Command `focal-compare report`: reports a comparison, finished or not."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .analysis.detection_analysis import REPLICATES
from .report.terminal import terminal_report
from .report.write import write_report

NOT_ALL_DONE = 3
DESCRIPTION = """
Write report.html, report.md, report.json, tables/*.csv and figures/* into the folder of a
comparison, and print the verdicts. The comparison may still be running: the report names the runs
that are missing or have failed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `focal-compare report`."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "runs", type=Path, metavar="RUNS_DIR", help="folder that `focal-compare run` wrote to"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help=f"exit with code {NOT_ALL_DONE} if a run has failed or is not done",
    )
    parser.add_argument(
        "--replicates",
        type=int,
        default=REPLICATES,
        metavar="N",
        help=f"resamples of the test images for each arm; default: {REPLICATES}; 0 skips them, "
        "which saves most of the time on a large test set",
    )


def main(args: argparse.Namespace) -> int:
    """
    Write the report and print the verdicts.

    Returns:
        0, or with `--strict` 3 if not all runs are done.

    Raises:
        FileNotFoundError: the folder contains no comparison.
        ValueError: the number of replicates is negative or 1.
    """
    if args.replicates < 0 or args.replicates == 1:
        raise ValueError(f"--replicates must be 0, or at least 2, got {args.replicates}")
    files = write_report(args.runs, replicates=args.replicates)
    print(terminal_report(files.summary))
    print(f"\nThe report: {files.html}")
    if args.strict and not files.summary.complete:
        runs = files.summary.runs
        left = sum(run.state != "done" for run in runs)
        print(f"focal-compare: {left} of {len(runs)} runs are not done", file=sys.stderr)
        return NOT_ALL_DONE
    return 0
