"""`focal-compare report`: what is known of a comparison, finished or not."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .analysis.detection_analysis import REPLICATES
from .analysis.summary import Summary
from .report.terminal import terminal_report
from .report.write import write_report

NOT_ALL_DONE = 3
DESCRIPTION = """
Write report.html, report.md, report.json, tables/*.csv and figures/* into the folder of a
comparison, and print the verdicts. Works on a comparison that is still running: what is missing,
and what has failed, is said.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `focal-compare report`."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "runs", type=Path, metavar="RUNS_DIR", help="folder that `focal-compare run` wrote to"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help=f"exit with {NOT_ALL_DONE} if a run has failed or is not done",
    )
    parser.add_argument(
        "--replicates",
        type=int,
        default=REPLICATES,
        metavar="N",
        help=f"resamples of the test images for each arm; default: {REPLICATES}, 0: none, which "
        "saves most of the time on a large test set",
    )


def main(args: argparse.Namespace) -> int:
    """
    Returns:
        0, or with `--strict` 3 if not all runs are done.

    Raises:
        FileNotFoundError: there is no comparison in the folder.
        ValueError: a number of replicates that makes no interval.
    """
    if args.replicates < 0 or args.replicates == 1:
        raise ValueError(f"--replicates must be 0, or at least 2, got {args.replicates}")
    files = write_report(args.runs, replicates=args.replicates)
    print(terminal_report(files.summary))
    print(f"\nThe report: {files.html}")
    if args.strict and not files.summary.complete:
        print(f"focal-compare: {_not_done(files.summary)}", file=sys.stderr)
        return NOT_ALL_DONE
    return 0


def _not_done(summary: Summary) -> str:
    left = [run for run in summary.runs if run.state != "done"]
    return f"{len(left)} of {len(summary.runs)} runs are not done"
