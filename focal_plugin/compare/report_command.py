"""Command `focal-compare report`: reports a comparison, finished or not."""

from __future__ import annotations

import argparse
import sys

from focal_plugin_commands.compare import NOT_ALL_DONE

from .report.terminal import terminal_report
from .report.write import write_report


def main(args: argparse.Namespace) -> int:
    """
    Write the report and print the verdicts.

    Returns:
        0, or with `--strict` 3 if not all runs are done.

    Raises:
        FileNotFoundError: the folder contains no comparison.
        ValueError: the number of replicates is negative or 1.
    """
    check_replicates(args.replicates)
    files = write_report(args.runs, replicates=args.replicates)
    print(terminal_report(files.summary))
    print(f"\nThe report: {files.html}")
    if args.strict and not files.summary.complete:
        runs = files.summary.runs
        left = sum(run.state != "done" for run in runs)
        print(f"focal-compare: {left} of {len(runs)} runs are not done", file=sys.stderr)
        return NOT_ALL_DONE
    return 0


def check_replicates(replicates: int) -> None:
    """
    Check the number of resamples.

    Raises:
        ValueError: it is negative or 1.
    """
    if replicates < 0 or replicates == 1:
        raise ValueError(f"--replicates must be 0, or at least 2, got {replicates}")
