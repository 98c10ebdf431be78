"""Command `focal-compare run`: trains unfinished runs, tunes learning rates, and reports."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ..config_file import find_config_file
from ..run_folder import STATUS_FILE
from ..yaml_text import load
from .analysis.tuning import best_factors
from .plan.comparison import Comparison
from .plan.spec import best_runs, load_spec
from .report.terminal import terminal_report
from .report.write import write_report
from .running.engines import Options
from .running.runner import SweepInterruptedError, run_all
from .runs.run_folder import read_run_folders
from .runs.status import Status


def main(args: argparse.Namespace) -> int:
    """
    Train the runs of a spec and report.

    Returns:
        0 if all runs are done; 1 if one is not; 128 plus the signal number after a signal.
    """
    output = args.output or Path("runs") / args.spec.stem
    args.spec = find_config_file(str(args.spec))
    comparison = load_spec(args.spec)
    if args.dry_run:
        print(_plan_of(comparison, output))
        return 0
    comparison.write(output)
    _mention_others(comparison, output)
    try:
        comparison, statuses = _train(args, comparison, output)
    except SweepInterruptedError as interruption:
        print(
            f"\nInterrupted. Finished runs stay in {output}; the same command resumes there.",
            file=sys.stderr,
        )
        return interruption.exit_code
    files = write_report(output)
    print(f"\n{terminal_report(files.summary)}\n")
    print(f"The report: {files.html}")
    return _count_failures(comparison, statuses)


def _train(
    args: argparse.Namespace, comparison: Comparison, output: Path
) -> tuple[Comparison, list[Status]]:
    """Train all runs; the runs at the best learning rates are known after the trials."""
    options = Options(
        engine=args.engine,
        jobs=args.jobs,
        gpus_per_run=args.gpus_per_run,
        cpus_per_run=args.cpus_per_run,
        retry_failed=args.retry_failed,
        address=args.address,
        slurm=_parameters(args.slurm),
    )
    statuses = run_all(comparison.runs, output, options)
    if comparison.lr_factors:
        best = best_runs(
            args.spec, comparison, best_factors(comparison, read_run_folders(comparison, output))
        )
        comparison = comparison.with_runs(best)
        comparison.write(output)
        statuses += run_all(best, output, options)
    return comparison, statuses


def _count_failures(comparison: Comparison, statuses: list[Status]) -> int:
    not_done = [
        (run, status)
        for run, status in zip(comparison.runs, statuses, strict=True)
        if status.state != "done"
    ]
    for run, status in not_done:
        print(f"focal-compare: {run.name} {status.state}: {status.reason}", file=sys.stderr)
    return 1 if not_done else 0


def _plan_of(comparison: Comparison, output: Path) -> str:
    states = {run: Status.read(output / run.id).state for run in comparison.runs}
    todo = [run for run, state in states.items() if state != "done"]
    lines = [f"{output / run.id}  {run.iterations} iterations" for run in todo]
    total = sum(run.iterations for run in todo)
    counted = ", ".join(f"{number} {state}" for state, number in Counter(states.values()).items())
    lines.append(f"{len(comparison.runs)} runs: {counted}; {total} iterations to train at most")
    if comparison.lr_factors:
        lines.append("then each arm at its best learning rate, unless that is its own")
    return "\n".join(lines)


def _mention_others(comparison: Comparison, output: Path) -> None:
    """Print how many folders belong to runs of an earlier version of the spec or its configs."""
    own = {run.id for run in comparison.runs}
    folders = [f for f in sorted(output.iterdir()) if (f / STATUS_FILE).exists()]
    others = [folder.name for folder in folders if folder.name not in own]
    if others and not comparison.lr_factors:
        print(
            f"{output} holds {len(others)} run(s) of other configs, which are not changed: "
            f"{', '.join(others[:3])}{', ...' if len(others) > 3 else ''}",
            file=sys.stderr,
        )


def _parameters(pairs: list[str]) -> dict[str, Any]:
    """
    Parse `KEY=VALUE` pairs; the values are YAML.

    Raises:
        ValueError: a pair is not `KEY=VALUE`.
    """
    parameters = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ValueError(f"--slurm expects KEY=VALUE, got {pair!r}")
        parameters[key] = load(value, f"--slurm {key}")
    return parameters
