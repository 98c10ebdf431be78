"""
Choice of a learning rate for each arm: the best one of a grid that all arms share.

At short schedules the scale of a loss acts as a learning rate. So a comparison at one learning rate
for all arms and a comparison at the best rate of each arm answer two questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from ..plan.comparison import Comparison
from ..runs.run_folder import RunFolder


@dataclass(frozen=True)
class Tuned:
    """
    Result of the trial runs of an arm.

    Attributes:
        ap: factor -> mean AP over the trial seeds, percent; None if a run failed or is missing.
        best: factor with the highest AP; of equal ones, the one closest to 1; None if all failed.
        at_edge: True if it is the smallest or largest of the grid, so a wider grid may contain a
            better one.
    """

    ap: dict[float, float | None]
    best: float | None
    at_edge: bool


def tune(comparison: Comparison, folders: Sequence[RunFolder]) -> dict[str, Tuned]:
    """Return arm -> result of its trials; {} without tuning."""
    if not comparison.lr_factors:
        return {}
    return {arm: _tune_arm(comparison, folders, arm) for arm in comparison.arms}


def best_factors(comparison: Comparison, folders: Sequence[RunFolder]) -> dict[str, float]:
    """Return arm -> best factor, for the arms that have one."""
    tuned = tune(comparison, folders)
    return {arm: of_arm.best for arm, of_arm in tuned.items() if of_arm.best is not None}


def _tune_arm(comparison: Comparison, folders: Sequence[RunFolder], arm: str) -> Tuned:
    trials: dict[float, list[float | None]] = {factor: [] for factor in comparison.lr_factors}
    for folder in folders:
        if folder.run.role == "tuning" and folder.run.arm == arm:
            result = folder.result
            trials[folder.run.lr_factor].append(None if result is None else result.ap["AP"] or 0.0)
    ap = {factor: _mean_of_all(values) for factor, values in trials.items()}
    finished = [factor for factor in ap if ap[factor] is not None]
    if not finished:
        return Tuned(ap, None, at_edge=False)
    best = max(finished, key=lambda factor: (ap[factor], -abs(math.log(factor))))
    edges = (min(ap), max(ap))
    return Tuned(ap, best, at_edge=len(ap) > 1 and best in edges)


def _mean_of_all(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None
