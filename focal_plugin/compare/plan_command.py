"""Command `focal-compare plan`: what each design of a comparison finds and costs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import torch
from tabulate import tabulate

from ..config_file import find_config_file
from ..pages.text import count_text, duration_text
from .analysis.designs import plan_looks, simulate
from .analysis.pilot import seconds_of_pilots, spread_of_pilots
from .analysis.power import recommend_seeds
from .looks_to_plan import earlier_comparisons
from .plan.arm_check import ArmCheck
from .plan.comparison import PLAN_FILE
from .plan.design import FEWEST_SEEDS, Design
from .plan.setting import Grid
from .plan.spec import Plan, read_plans
from .plan.spec_file import read_spec
from .run_command import default_output, step_seconds
from .running.engines import Options
from .running.engines.resources import divide, usable_processors, visible_gpus


def main(args: argparse.Namespace) -> int:
    """
    Print the designs of a spec. Nothing is trained, except a few iterations with `--time`.

    Raises:
        ValueError: the spread between seeds is not known, or the spec is malformed.
    """
    file = find_config_file(str(args.spec))
    # The number of seeds is the question, so that of the spec does not matter
    if read_spec(file).folds is not None:
        raise ValueError(f"{file}: the spread between folds is known only after their training")
    plans = read_plans(
        file, ArmCheck(here=True), choose=lambda spec, looks: Design((FEWEST_SEEDS,))
    )
    plan = plans[0]
    if len(plan.comparison.arms) < 2:
        raise ValueError(f"{file}: one arm has nothing to be compared with")
    std, source = _spread(args, file, plan)
    division = divide(Options(jobs=args.jobs), visible_gpus(), usable_processors())
    seconds = _seconds(args, plan, division.threads)
    text = plan_text(
        plan,
        std,
        source,
        args.effects,
        args.power,
        seconds,
        division.jobs,
        datasets=len(plans),
    )
    print(text)
    return 0


def plan_text(
    plan: Plan,
    std: float,
    source: str,
    effects: Sequence[float],
    power: float,
    seconds: float | None,
    jobs: int,
    *,
    datasets: int = 1,
) -> str:
    """
    Return the designs for each effect: seeds, power, runs and hours.

    Args:
        std: standard deviation of the differences between seeds, AP in percent.
        source: where ``std`` is from.
        effects: differences to find, AP in percent.
        power: probability of finding them.
        seconds: mean time of a run; None if unknown.
        jobs: runs at a time.
        datasets: number of datasets. The mean over several varies less between seeds, and there
            are no looks.
    """
    arms = len(plan.comparison.arms) - 1
    parts = [
        f"{count_text(arms, 'arm')} beside {plan.comparison.reference}. Between seeds, the "
        f"differences have a standard deviation of {std:.2f} AP ({source})."
    ]
    for effect in effects:
        parts.append(_designs(arms, std, effect, power, seconds, jobs, datasets))
    if datasets > 1:
        parts.append(
            f"Every design is for the mean over {datasets} datasets, with this number of seeds on "
            "each, and the same spread between seeds on each."
        )
    if plan.comparison.grid is not None:
        parts.append(_tuning(plan.comparison.grid, datasets * len(plan.comparison.arms)))
    parts.append(
        "Runs are means over simulated comparisons, with the runs of the reference. Fixed seeds: "
        "`seeds: N`. Looks: `seeds: {looks: [...], effect: E}`. Arms stop at a look once they are "
        "decided, or once the effect is out of their reach."
    )
    if seconds is None:
        parts.append("For the hours of each design, add --time, or --pilot with a finished one.")
    return "\n\n".join(parts)


def _tuning(grid: Grid, arms: int) -> str:
    trials = arms * len(grid.settings) * len(grid.seeds)
    return (
        f"Tuning adds {trials} trials to every design. The runs at the best settings are at most "
        "as many as the runs of the design again."
    )


def _designs(
    arms: int,
    std: float,
    effect: float,
    power: float,
    seconds: float | None,
    jobs: int,
    datasets: int,
) -> str:
    std /= math.sqrt(datasets)
    fixed = recommend_seeds(std, effect, power, arms).seeds
    if fixed is None:
        return f"To find {effect:g} AP, more than 1,000 seeds would be necessary."
    designs = {Design((fixed,), effect): None}
    if datasets == 1:
        designs[plan_looks(std, effect, arms, power)] = None
    rows = []
    for design in designs:
        one = simulate(design, [effect, *[0.0] * (arms - 1)], std)
        equal = simulate(design, [0.0] * arms, std)
        counts = [datasets * runs for runs in (one.runs, equal.runs, (arms + 1) * design.last)]
        rows.append(
            (
                "looks at " + ", ".join(map(str, design.looks)) + " seeds"
                if design.is_sequential
                else f"{design.last} seeds",
                f"{one.found[0]:.0%}",
                *(f"{runs:.0f}" for runs in counts),
                *([duration_text(counts[0] * seconds / jobs)] if seconds else []),
            )
        )
    header = ["design", "power", "runs, one arm differs", "runs, none differs", "runs at most"]
    header += ["time, one arm differs"] if seconds else []
    table = tabulate(rows, header, "simple", disable_numparse=True)
    return f"To find a difference of {effect:g} AP:\n{table}"


def _spread(args: argparse.Namespace, file: Path, plan: Plan) -> tuple[float, str]:
    """Return the standard deviation of the differences, and where it is from."""
    if args.std is not None:
        if not args.std > 0:
            raise ValueError(f"--std must be > 0, got {args.std}")
        return args.std, "from --std"
    folders = _pilots(args, file, plan)
    std = spread_of_pilots(folders)
    if not std:
        raise ValueError(
            "the spread between seeds is not known: give it with --std, or a finished comparison "
            "of the same base config with --pilot. Two seeds of each arm are a first estimate"
        )
    return std, f"from {', '.join(folder.name for folder in folders)}"


def _pilots(args: argparse.Namespace, file: Path, plan: Plan) -> tuple[Path, ...]:
    if args.pilot:
        return tuple(args.pilot)
    output = default_output(plan.comparison.name)
    own = (output,) if (output / PLAN_FILE).is_file() else ()
    return own or earlier_comparisons(read_spec(file), output)


def _seconds(args: argparse.Namespace, plan: Plan, threads: int) -> float | None:
    """Return the mean time of a run of the arms, in seconds; None if it is unknown."""
    if args.time:
        torch.set_num_threads(threads)
        return _mean_time(plan, {arm: step_seconds(cfg) for arm, cfg in plan.configs.items()})
    return seconds_of_pilots(args.pilot) if args.pilot else None


def _mean_time(plan: Plan, steps: Mapping[str, float | str]) -> float | None:
    times = [
        step * plan.configs[arm].SOLVER.MAX_ITER
        for arm, step in steps.items()
        if not isinstance(step, str)
    ]
    return mean(times) if times else None
