"""Spread between seeds of finished comparisons, for the plan of a new one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from ..plan.comparison import Comparison
from ..runs.run_folder import RunFolder, read_run_folders
from .scores import Standing, standing

Variances = list[tuple[float, float]]
"""(degrees of freedom, variance) of each arm."""


def spread_of_differences(found: Standing) -> float | None:
    """
    Return the standard deviation of the differences to the reference between seeds, AP in percent.

    It is pooled over the arms; each arm weighs by its degrees of freedom. None if no arm has two
    seeds in common with the reference.
    """
    return _pooled(_of_differences(found))


def spread_of_pilots(folders: Iterable[Path]) -> float | None:
    """
    Return :func:`spread_of_differences`, pooled over comparisons.

    A comparison of one arm counts, too: the difference between two arms of its variance has twice
    this variance. None if no comparison has two finished runs of an arm.

    Raises:
        FileNotFoundError: a folder contains no comparison.
        ValueError: the plan of a comparison is damaged.
    """
    variances: Variances = []
    for folder in folders:
        comparison = Comparison.read(folder)
        runs = read_run_folders(comparison, folder)
        found = standing(comparison, runs_of_arms(comparison, runs))
        variances += _of_differences(found) or _of_arms(found)
    return _pooled(variances)


def seconds_of_pilots(folders: Iterable[Path]) -> float | None:
    """Return the mean time of a finished run, in seconds, without evaluation; None without one."""
    times = [
        run.finished.iterations * run.finished.iteration_s
        for folder in folders
        for run in read_run_folders(Comparison.read(folder), folder)
        if run.result is not None and run.finished.iteration_s is not None
    ]
    return sum(times) / len(times) if times else None


def runs_of_arms(
    comparison: Comparison, folders: list[RunFolder], role: str = "equal"
) -> dict[str, list[RunFolder]]:
    """Return arm -> its runs of a role; "equal" runs have the settings of the configs."""
    return {
        arm: [r for r in folders if r.run.role == role and r.run.arm == arm]
        for arm in comparison.arms
    }


def _of_differences(found: Standing) -> Variances:
    return [
        (verdict.difference.n - 1, verdict.difference.std**2)
        for verdict in found.verdicts
        if verdict.difference and verdict.difference.std is not None
    ]


def _of_arms(found: Standing) -> Variances:
    spreads = [scores.metrics["AP"] for scores in found.arms]
    return [(s.n - 1, 2 * s.std**2) for s in spreads if s.std is not None]


def _pooled(variances: Variances) -> float | None:
    freedom = sum(of_arm for of_arm, _ in variances)
    if not freedom:
        return None
    return math.sqrt(sum(of_arm * variance for of_arm, variance in variances) / freedom)
