"""
Choice of a setting for each arm: the best one of a grid that all arms share.

At short schedules the scale of a loss acts as a learning rate, and its weight decides how much of
the gradient is for the boxes. So a comparison at the settings of the configs and a comparison at
the best setting of each arm answer two questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from ..plan.comparison import Comparison
from ..plan.setting import Grid, Origin, Setting
from ..runs.run_folder import RunFolder


@dataclass(frozen=True)
class Trials:
    """
    Trials of an arm at one setting.

    Attributes:
        ap: mean AP over the trial seeds, percent; None if a run failed or is missing.
        std: standard deviation between the trial seeds, ddof 1; None without ``ap``.
    """

    setting: Setting
    ap: float | None
    std: float | None


@dataclass(frozen=True)
class Tuned:
    """
    Result of the trial runs of an arm.

    Attributes:
        trials: one entry for each setting of the grid, in its order.
        best: setting with the highest AP; of equal ones, the one closest to that of the config;
            None if all failed.
        base_lr: `SOLVER.BASE_LR` of the best setting; None without one.
        weight: loss weight of the best setting; None without one, or if it is not tuned.
        lr_at_edge: True if it has the smallest or largest learning rate of several, so a wider grid
            may contain a better one.
        weight_at_edge: the same for the loss weight.
        train_images: number of images that its trials trained on; None if no trial recorded it.
        val_images: number of images that they were evaluated on; None if no trial recorded it.
    """

    trials: tuple[Trials, ...]
    best: Setting | None
    base_lr: float | None
    weight: float | None
    lr_at_edge: bool
    weight_at_edge: bool
    train_images: int | None = None
    val_images: int | None = None

    def at(self, setting: Setting) -> Trials:
        """Return the trials at a setting of the grid."""
        return next(trials for trials in self.trials if trials.setting == setting)


def tune(comparison: Comparison, folders: Sequence[RunFolder]) -> dict[str, Tuned]:
    """Return arm -> result of its trials; {} without tuning."""
    if comparison.grid is None:
        return {}
    return {
        arm: _tune_arm(
            comparison.grid,
            comparison.origins[arm],
            [f for f in folders if f.run.role == "tuning" and f.run.arm == arm],
        )
        for arm in comparison.arms
    }


def best_settings(comparison: Comparison, folders: Sequence[RunFolder]) -> dict[str, Setting]:
    """Return arm -> best setting, for the arms that have one."""
    tuned = tune(comparison, folders)
    return {arm: of_arm.best for arm, of_arm in tuned.items() if of_arm.best is not None}


def _tune_arm(grid: Grid, origin: Origin, folders: Sequence[RunFolder]) -> Tuned:
    trials = tuple(_trials(setting, folders) for setting in grid.settings)
    finished = [
        (each.ap, -each.setting.distance, each.setting) for each in trials if each.ap is not None
    ]
    best = max(finished, key=lambda each: each[:2])[2] if finished else None
    return Tuned(
        trials=trials,
        best=best,
        base_lr=origin.base_lr * best.lr_factor if best else None,
        weight=origin.weight * best.weight_factor if best and grid.weight_factors else None,
        lr_at_edge=best is not None and _is_edge(best.lr_factor, grid.lr_factors),
        weight_at_edge=best is not None and _is_edge(best.weight_factor, grid.weight_factors),
        train_images=_images(folders, "train"),
        val_images=_images(folders, "test"),
    )


def _trials(setting: Setting, folders: Sequence[RunFolder]) -> Trials:
    values = [_average_precision(folder) for folder in folders if folder.run.setting == setting]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Trials(setting, None, None)
    return Trials(setting, mean(known), stdev(known) if len(known) > 1 else None)


def _average_precision(folder: RunFolder) -> float | None:
    """Return the AP of a finished trial, the mean over the splits of several training sets."""
    if folder.result is None:
        return None
    others = folder.result.ap_of_others.values()
    return mean(found.get("AP") or 0.0 for found in (folder.result.ap, *others))


def _is_edge(factor: float, factors: tuple[float, ...]) -> bool:
    return len(factors) > 1 and factor in (min(factors), max(factors))


def _images(folders: Sequence[RunFolder], use: str) -> int | None:
    """Return the number of images that the first started trial recorded for "train" or "test"."""
    environments = [folder.environment for folder in folders if folder.environment is not None]
    counts = [data.images for data in getattr(environments[0], use)] if environments else []
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None
