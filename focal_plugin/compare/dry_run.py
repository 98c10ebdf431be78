"""Text of `focal-compare run --dry-run`: the runs, how the arms differ, and what follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from ..names import shown
from ..pages.text import count_text, duration_text, listed, plain
from .analysis.fairness import config_differences
from .analysis.power import smallest_effect, smallest_significant
from .plan.collection import folder_of
from .plan.comparison import Comparison, Run
from .plan.design import FEWEST_SEEDS, POWER
from .plan.spec import Plan
from .runs.status import Status

WIDTH = 100
"""Columns of the table of differences; a wider one becomes a list."""


def unfinished(comparison: Comparison, output: Path) -> dict[Run, str]:
    """Return the runs that are not done -> their states."""
    states = {run: Status.read(output / run.id).state for run in comparison.runs}
    return {run: state for run, state in states.items() if state != "done"}


def plan_text(plans: Sequence[Plan], output: Path) -> str:
    """
    Return the runs to train, the keys in which the arms differ, and what the seeds decide.

    Args:
        plans: one, or one for each dataset or fold.
        output: folder of the spec.
    """
    parts = []
    for plan in plans:
        own = [_runs(plan.comparison, folder_of(plan.comparison, output)), tuning_text(plan)]
        text = "\n\n".join(filter(None, own))
        parts.append(f"{plain(plan.comparison.part)}:\n{text}" if plan.comparison.part else text)
    first = plans[0].comparison
    decide = parts_text(first, len(plans)) if first.part else seeds_text(first)
    return "\n\n".join(filter(None, [*parts, _differences(plans[0]), decide]))


def parts_text(comparison: Comparison, number: int) -> str:
    """Return what the seeds decide on several datasets or folds, in sentences."""
    seeds = count_text(len(comparison.seeds), "seed")
    return (
        f"{seeds} on each of {number}: the report has a verdict on each from {FEWEST_SEEDS} seeds "
        f"on. The verdict over all datasets takes two seeds on each, that over folds takes "
        f"{FEWEST_SEEDS} folds."
    )


def tuning_text(plan: Plan) -> str:
    """Return the trials, what they train on, and the runs that follow them; "" without tuning."""
    grid = plan.comparison.grid
    if grid is None:
        return ""
    arms, settings = len(plan.comparison.arms), len(grid.settings)
    trials = arms * settings * len(grid.seeds)
    most = arms * len(plan.comparison.seeds)
    images = [
        f"Trials of {plain(name)} train on {split.train.images:,} of its images, and test on the "
        f"{split.val.images:,} others."
        for name, split in plan.splits.items()
    ]
    return "\n".join(
        [
            f"{trials} of the runs are trials: {count_text(settings, 'setting')} of each arm with "
            f"{count_text(len(grid.seeds), 'seed')}.",
            *images,
            f"Then each arm trains at its best setting, unless that is its own: up to {most} runs "
            "more.",
        ]
    )


def seeds_text(comparison: Comparison) -> str:
    """Return what the seeds of a comparison can decide, in sentences."""
    seeds, others = len(comparison.seeds), len(comparison.arms) - 1
    if not others:
        return "One arm has nothing to be compared with."
    fewest, arms = FEWEST_SEEDS, count_text(others, "arm")
    if comparison.looks.is_sequential:
        counts = listed([str(count) for count in comparison.looks.looks], most=20)
        return (
            f"The results of {arms} beside the reference are judged after {counts} seeds. Only "
            f"arms that are still open train the seeds of the next look, so {seeds} seeds of each "
            f"arm are the most."
        )
    if seeds >= fewest:
        size = smallest_effect(seeds, comparisons=others)
        return (
            f"{seeds} seeds and {arms} beside the reference: a difference is found with a "
            f"probability of {POWER:.0%} if it is {size:.1f} times its standard deviation from "
            "seed to seed."
        )
    undecided = (
        f"{count_text(seeds, 'seed')} cannot decide which arm is better: every verdict will be "
        f"undecided. {fewest} seeds are the fewest that can."
    )
    if seeds == 1:
        return (
            f"{undecided} One seed shows whether an arm trains, but not how much a second seed "
            "would differ."
        )
    size = smallest_significant(seeds, comparisons=others)
    return (
        f"{undecided} With {seeds}, a difference would have to be {size:.1f} times its standard "
        "deviation from seed to seed to be significant."
    )


def trained_test_sets(configs: Mapping[str, CfgNode]) -> str:
    """Return a warning about datasets that an arm both trains and tests on, or ""."""
    both = {name for cfg in configs.values() for name in cfg.DATASETS.TEST} & {
        name for cfg in configs.values() for name in cfg.DATASETS.TRAIN
    }
    listed = ", ".join(sorted(both))
    return (
        f"The AP will be on images of the training: {listed} is in DATASETS.TRAIN, too."
        if both
        else ""
    )


def _runs(comparison: Comparison, output: Path) -> str:
    left = unfinished(comparison, output)
    lines = [f"{output / run.id}  {run.iterations} iterations" for run in left]
    states = Counter([*left.values(), *["done"] * (len(comparison.runs) - len(left))])
    counted = ", ".join(f"{number} {state}" for state, number in states.items() if number)
    total = sum(run.iterations for run in left)
    lines.append(f"{len(comparison.runs)} runs: {counted}; {total} iterations to train at most")
    return "\n".join(lines)


def _differences(plan: Plan) -> str:
    """Return a table of keys and arms; if it would be wide, the keys of each arm."""
    reference = plan.comparison.reference
    found = config_differences(plan.configs)
    if not found:
        return ""
    arms = [reference, *(arm for arm in plan.comparison.arms if arm != reference)]
    rows = [(each.key, *(_cell(each.values[arm]) for arm in arms)) for each in found]
    table = tabulate(rows, ("key", *map(plain, arms)), "simple", disable_numparse=True)
    if len(table.partition("\n")[0]) <= WIDTH:
        return f"Keys in which the arms differ:\n{table}"
    lines = [
        f"  {plain(arm)}: "
        + ", ".join(
            f"{each.key} {_cell(each.values[arm])}"
            for each in found
            if each.values[arm] != each.values[reference]
        )
        for arm in arms[1:]
    ]
    return "\n".join([f"Keys in which the arms differ from {plain(reference)}:", *lines])


def _cell(value: Any) -> str:
    return plain(shown(value))


def time_text(plan: Plan, output: Path, seconds: Mapping[str, float | str], *, jobs: int) -> str:
    """
    Return the time that the unfinished runs take, from the time of a step of each arm.

    Args:
        seconds: arm -> seconds per iteration, or why it is unknown.
        jobs: runs at a time.
    """
    left = unfinished(plan.comparison, output)
    rows, total = [], 0.0
    for arm, step in seconds.items():
        if isinstance(step, str):
            rows.append((plain(arm), plain(step), "", ""))
            continue
        run = next(run for run in plan.comparison.runs if run.arm == arm)
        all_runs = step * sum(each.iterations for each in left if each.arm == arm)
        total += all_runs
        times = (duration_text(run.iterations * step), duration_text(all_runs))
        rows.append((plain(arm), f"{step:.3f}", *times))
    header = ("arm", "s/iteration", "one run", "all runs")
    table = tabulate(rows, header, "simple", disable_numparse=True)
    at_a_time = (
        f" at {jobs} runs at a time, if they do not slow each other down" if jobs > 1 else ""
    )
    return (
        f"Time to train, without evaluation, from a few iterations of each arm:\n{table}\n"
        f"In all {duration_text(total / jobs)}{at_a_time}."
    )
