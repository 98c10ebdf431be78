"""Command `focal-compare report`: reports a comparison, finished or not."""

from __future__ import annotations

import argparse
import sys

from focal_plugin_commands.compare import NOT_ALL_DONE

from .report.report_all import report_all


def main(args: argparse.Namespace) -> int:
    """
    Write the report and print the verdicts.

    Returns:
        0, or with `--strict` 3 if not all runs are done.

    Raises:
        FileNotFoundError: the folder contains no comparison.
        ValueError: the number of replicates is negative or 1.
        KeyError: `--reference` is not an arm.
    """
    check_replicates(args.replicates)
    reported = report_all(args.runs, replicates=args.replicates, reference=args.reference)
    print(reported.terminal)
    print(f"\nThe report: {reported.html}")
    if args.strict and not all(summary.complete for summary in reported.summaries.values()):
        runs = [run for summary in reported.summaries.values() for run in summary.runs]
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
