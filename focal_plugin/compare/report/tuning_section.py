"""Words, table and CSV rows on the tuning of learning rates and loss weights."""

from __future__ import annotations

from collections.abc import Iterable

from ...pages.table import Table
from ...pages.text import NOTHING, count_text, listed, number_text, plain
from ..analysis.summary import Summary, Tuning
from ..analysis.tuning import Trials, Tuned
from ..plan.setting import Grid, Setting

Cell = str | int | float | None
EDGE = "at the edge of the grid"


def at_equal(summary: Summary) -> str:
    """Return where the arms stand at the settings of their configs."""
    if summary.tuning is None or not summary.tuning.grid.weight_factors:
        return "At the same learning rate"
    both = bool(summary.tuning.grid.lr_factors)
    return f"With {'learning rates and ' if both else ''}loss weights as configured"


def at_best(summary: Summary) -> str:
    """Return where the arms stand at their best settings."""
    return f"At each arm's best {tuned_name(summary)}"


def tuned_name(summary: Summary) -> str:
    """Return what is tuned, in the singular; "" without tuning."""
    grid = summary.tuning.grid if summary.tuning else Grid()
    names = ["learning rate"] if grid.lr_factors else []
    names += ["loss weight"] if grid.weight_factors else []
    return " and ".join(names)


def setting_header(summary: Summary) -> tuple[str, ...]:
    """Return the columns of :func:`setting_cells`."""
    grid = summary.tuning.grid if summary.tuning else Grid()
    return (*(("lr",) if grid.lr_factors else ()), *(("weight",) if grid.weight_factors else ()))


def setting_cells(summary: Summary, arm: str, setting: Setting | None) -> tuple[str, ...]:
    """Return learning rate and loss weight of an arm at its best setting, as far as tuned."""
    if summary.tuning is None or setting is None:
        return (NOTHING,) * len(setting_header(summary))
    tuned, grid = summary.tuning.arms[arm], summary.tuning.grid
    lr = (_value(tuned.base_lr),) if grid.lr_factors else ()
    return (*lr, *((_value(tuned.weight),) if grid.weight_factors else ()))


def tuning_table(summary: Summary) -> Table | None:
    """
    Return the AP of the trials at each setting; None without tuning.

    The columns are the learning rates, or the loss weights if only these are tuned. With both, an
    arm has one row for each loss weight.
    """
    if summary.tuning is None:
        return None
    grid = summary.tuning.grid
    both = bool(grid.lr_factors and grid.weight_factors)
    rows = []
    for arm, tuned in summary.tuning.arms.items():
        for row, trials in enumerate(_rows(tuned, grid)):
            has_best = any(each.setting == tuned.best for each in trials)
            is_first_of_none = tuned.best is None and row == 0
            rows.append(
                (
                    plain(arm),
                    *((f"x {trials[0].setting.weight_factor:g}",) if both else ()),
                    *map(_ap_text, trials),
                    best_text(tuned, grid) if has_best or is_first_of_none else "",
                )
            )
    axis, factors = ("lr", grid.lr_factors) if grid.lr_factors else ("weight", grid.weight_factors)
    columns = [f"{axis} x {factor:g}" for factor in factors]
    return Table(
        name="tuning",
        header=("arm", *(("weight",) if both else ()), *columns, "best"),
        rows=tuple(rows),
        text_last=True,
        caption=_caption(summary.tuning, tuned_name(summary)),
    )


def best_text(tuned: Tuned, grid: Grid) -> str:
    """Return the best setting in numbers, such as "lr 0.02 (x 2), weight 4 (x 4)"."""
    if tuned.best is None:
        return NOTHING
    parts = []
    if grid.lr_factors:
        parts.append(_chosen("lr", tuned.base_lr, tuned.best.lr_factor, edge=tuned.lr_at_edge))
    if grid.weight_factors:
        weight_factor, edge = tuned.best.weight_factor, tuned.weight_at_edge
        parts.append(_chosen("weight", tuned.weight, weight_factor, edge=edge))
    return ", ".join(parts)


def tuning_sentence(summary: Summary) -> str:
    """Return how the settings were chosen, for a paper; "" without tuning."""
    if summary.tuning is None:
        return ""
    grid = summary.tuning.grid
    axes = {"learning rate": grid.lr_factors, "loss weight": grid.weight_factors}
    tried = [
        f"{listed([f'{factor:g}' for factor in factors], most=20)} times its {name}"
        for name, factors in axes.items()
        if factors
    ]
    chosen = [
        f"{plain(arm)}: {best_text(tuned, grid)}"
        for arm, tuned in summary.tuning.arms.items()
        if tuned.best is not None
    ]
    found = f" Chosen were {'; '.join(chosen)}." if chosen else ""
    seeds = count_text(len(grid.seeds), "seed")
    return f"Each arm tried {', and '.join(tried)}, with {seeds}. {_images(summary.tuning)}{found}"


def tuning_rows(summary: Summary) -> Iterable[list[Cell]]:
    """Yield one row per arm and setting of the trials."""
    head: list[Cell] = ["arm", "lr_factor", "weight_factor", "mean", "std", "best"]
    yield [*head, "best_base_lr", "best_weight", "lr_at_edge", "weight_at_edge"]
    for arm, tuned in summary.tuning.arms.items() if summary.tuning else ():
        for each in tuned.trials:
            is_best = each.setting == tuned.best
            values = (tuned.base_lr, tuned.weight, str(tuned.lr_at_edge), str(tuned.weight_at_edge))
            yield [
                *(arm, each.setting.lr_factor, each.setting.weight_factor, each.ap, each.std),
                str(is_best),
                *(values if is_best else (None,) * len(values)),
            ]


def _rows(tuned: Tuned, grid: Grid) -> list[tuple[Trials, ...]]:
    """Return the trials in rows of the table: with both axes, one row for each loss weight."""
    width = len(grid.lr_factors or grid.weight_factors)
    return [tuned.trials[i : i + width] for i in range(0, len(tuned.trials), width)]


def _ap_text(trials: Trials) -> str:
    spread = "" if trials.std is None else f" ± {trials.std:.1f}"
    return number_text(trials.ap) + spread


def _chosen(name: str, value: float | None, factor: float, *, edge: bool) -> str:
    return f"{name} {_value(value)} (x {factor:g}{f', {EDGE}' if edge else ''})"


def _value(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4g}"


def _caption(tuning: Tuning, name: str) -> str:
    seeds = listed([str(seed) for seed in tuning.grid.seeds], most=20)
    return (
        f"AP in percent of the trials: mean ± standard deviation between the seeds {seeds}, which "
        f"no other run has. {_images(tuning)} "
        f"They take {tuning.iterations:,} iterations, which are part of the cost of the "
        f"comparison. If the best {name} is at the edge of the grid, one outside the grid may be "
        f"better."
    )


def _images(tuning: Tuning) -> str:
    """Return on what the trials trained and were evaluated, with the images if they are known."""
    counts = dict.fromkeys(
        (tuned.train_images, tuned.val_images)
        for tuned in tuning.arms.values()
        if tuned.train_images is not None and tuned.val_images is not None
    )
    texts = [f"{train:,} images and were evaluated on {val:,} others" for train, val in counts]
    if not texts:
        return "The trials use a split of the training set."
    return f"The trials trained on {' or '.join(texts)}, a split of the training set."
