"""Command `focal-compare run`: trains unfinished runs, tunes arms, and reports."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from ..config_file import find_config_file
from ..engine.timed_steps import seconds_per_step
from ..names import shown
from ..pages.text import listed, plain
from ..run_folder import STATUS_FILE
from ..yaml_text import load
from .analysis.pilot import runs_of_arms
from .analysis.scores import open_arms
from .analysis.summary import Summary
from .analysis.tuning import best_settings
from .audit_before import audit_before
from .dry_run import plan_text, time_text, trained_test_sets
from .looks_to_plan import choose_looks
from .plan.arm_check import ArmCheck
from .plan.arm_errors import in_words
from .plan.collection import COLLECTION_FILE, Collection, folder_of
from .plan.comparison import Comparison, Run
from .plan.design import Design, LooksToPlan
from .plan.spec import Plan, best_runs, further_runs, read_plans
from .plan.spec_file import Spec, read_spec
from .plan.tuning_split import write_splits
from .report.report_all import report_all
from .running.engines import Options
from .running.engines.resources import divide, usable_processors, visible_gpus
from .running.runner import SweepInterruptedError, run_all
from .runs.run_folder import read_run_folders
from .runs.status import Status


def main(args: argparse.Namespace) -> int:
    """
    Train the runs of a spec and report.

    Returns:
        0 if all runs are done; 1 if one is not; 128 plus the signal number after a signal.

    Raises:
        ValueError: an arm cannot run, or `--output` cannot be a folder.
    """
    args.spec = find_config_file(str(args.spec))
    if args.output is not None:
        _check_output(args.output)
    spec = read_spec(args.spec)
    output = args.output or default_output(spec.name)
    _check_output(output)

    def choose(spec: Spec, to_plan: LooksToPlan) -> Design:
        return choose_looks(spec, to_plan, output)

    plans = read_plans(
        args.spec,
        ArmCheck(here=args.engine == "local"),
        choose=choose,
        folder=None if args.dry_run else output,
    )
    plans = tuple(_continuing(plan, output) for plan in plans)
    for plan in plans:
        if warning := trained_test_sets(plan.configs):
            print(_of_part(plan.comparison, warning), file=sys.stderr)
    if args.dry_run:
        _dry_run(args, plans, output)
        return 0
    for plan in plans:
        _prepare(plan, folder_of(plan.comparison, output))
    (output / COLLECTION_FILE).unlink(missing_ok=True)  # a spec may have had several datasets
    comparisons = [plan.comparison for plan in plans]
    if spec.part_names:
        kind = "fold" if spec.folds else "dataset"
        Collection.of(spec.name, kind, comparisons).write(output)
    del plan, plans  # their splits can take half a gigabyte
    try:
        trained = [_train(args, comparison, output) for comparison in comparisons]
    except SweepInterruptedError as interruption:
        print(
            f"\nInterrupted. Finished runs stay in {output}; the same command resumes there.",
            file=sys.stderr,
        )
        return interruption.exit_code
    reported = report_all(output)
    print(f"\n{reported.terminal}\n")
    print(f"The report: {reported.html}")
    if best := _best_run(reported.summaries):
        print(f"Boxes of the run with the highest AP: focal-plugin predict {best} IMAGES")
    return max(_count_failures(comparison, statuses) for comparison, statuses in trained)


def _continuing(plan: Plan, output: Path) -> Plan:
    folder = folder_of(plan.comparison, output)
    return replace(plan, comparison=plan.comparison.continuing(folder))


def _prepare(plan: Plan, folder: Path) -> None:
    """Write the plan and the audit, which the reports of unfinished runs require, too."""
    plan.comparison.write(folder)
    write_splits(plan.splits.values(), folder)
    _mention_others(plan.comparison, folder)
    if audit := audit_before(plan, folder):
        print(_of_part(plan.comparison, audit), file=sys.stderr)


def _of_part(comparison: Comparison, text: str) -> str:
    """Return a text with the dataset or fold that it is about."""
    return f"{comparison.part}: {text}" if comparison.part else text


def default_output(name: str) -> Path:
    """Return the folder of a comparison without `--output`."""
    return Path("runs") / name


def _best_run(summaries: Mapping[Path, Summary]) -> Path | None:
    """Return the folder of the finished run with the highest AP on a test set; None without one."""
    scores = {
        folder / run.id: run.ap["AP"]
        for folder, summary in summaries.items()
        for run in summary.runs
        if run.role != "tuning" and run.ap.get("AP") is not None
    }
    return max(scores, key=lambda run: scores[run], default=None)


def _check_output(output: Path) -> None:
    try:
        if output.exists() and not output.is_dir():
            raise ValueError(f"--output {shown(str(output))} is a file, not a folder")
    except OSError as error:
        raise ValueError(f"--output {shown(str(output))}: {error.strerror}") from None


def _train(
    args: argparse.Namespace, comparison: Comparison, root: Path
) -> tuple[Comparison, list[Status]]:
    """
    Train all runs of one dataset.

    The runs of a look are known after the look before it, and those at the best settings after the
    trials.
    """
    options, output = _options(args), folder_of(comparison, root)
    if comparison.part:
        print(f"{plain(comparison.part)}:", file=sys.stderr)
    statuses = run_all(comparison.runs, output, options)
    while more := _next_look(args.spec, comparison, output):
        comparison = comparison.with_runs(more)
        comparison.write(output)
        statuses += run_all(more, output, options)
    if comparison.grid is not None:
        settings = best_settings(comparison, read_run_folders(comparison, output))
        best = best_runs(args.spec, comparison, settings, root)
        comparison = comparison.with_runs(best)
        comparison.write(output)
        statuses += run_all(best, output, options)
    return comparison, statuses


def _next_look(spec: Path, comparison: Comparison, output: Path) -> tuple[Run, ...]:
    """Return the runs that the next look requires, and print which arms they are for."""
    if not comparison.looks.is_sequential:
        return ()
    folders = read_run_folders(comparison, output)
    arms, count = open_arms(comparison, runs_of_arms(comparison, folders))
    more = further_runs(spec, comparison, arms, count) if arms else ()
    if more:
        others = [plain(arm) for arm in arms if arm != comparison.reference]
        print(f"Open after this look, so up to {count} seeds: {listed(others)}", file=sys.stderr)
    return more


def _options(args: argparse.Namespace) -> Options:
    return Options(
        engine=args.engine,
        jobs=args.jobs,
        gpus_per_run=args.gpus_per_run,
        cpus_per_run=args.cpus_per_run,
        retry_failed=args.retry_failed,
        address=args.address,
        slurm=_parameters(args.slurm),
    )


def _count_failures(comparison: Comparison, statuses: list[Status]) -> int:
    not_done = [
        (run, status)
        for run, status in zip(comparison.runs, statuses, strict=True)
        if status.state != "done"
    ]
    for run, status in not_done:
        print(f"focal-compare: {run.name} {status.state}: {status.reason}", file=sys.stderr)
    return 1 if not_done else 0


def _dry_run(args: argparse.Namespace, plans: Sequence[Plan], output: Path) -> None:
    print(plan_text(plans, output))
    if not args.time:
        return
    division = divide(_options(args), visible_gpus(), usable_processors())
    torch.set_num_threads(division.threads)
    for plan in plans:
        seconds = {arm: step_seconds(cfg) for arm, cfg in plan.configs.items()}
        folder = folder_of(plan.comparison, output)
        text = time_text(plan, folder, seconds, jobs=division.jobs)
        print(f"\n{_of_part(plan.comparison, text)}")


def step_seconds(cfg: CfgNode) -> float | str:
    """Return the time of an iteration, measured on a few, or why it is unknown."""
    cfg = cfg.clone()
    cfg.SEED = 0
    try:
        return seconds_per_step(cfg)
    except Exception as error:
        return f"unknown: {in_words(error)}"


def _mention_others(comparison: Comparison, output: Path) -> None:
    """Print how many folders belong to runs of an earlier version of the spec or its configs."""
    own = {run.id for run in comparison.runs}
    folders = [f for f in sorted(output.iterdir()) if (f / STATUS_FILE).exists()]
    others = [folder.name for folder in folders if folder.name not in own]
    if others and comparison.grid is None:
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
