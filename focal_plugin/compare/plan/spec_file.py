"""Content of a spec file, checked for its form; no config is read here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...data import DatasetArgument
from ...names import shown
from ...yaml_text import load, read_text
from .parts import (
    DatasetPart,
    Folds,
    check_parts,
    read_datasets,
    read_folds,
    without_datasets,
)
from .score_threshold import read_score_threshold
from .seeds import MAX_RUNS, SeedChoice, integer, read_seed_choice
from .setting import Grid
from .spec_arms import ArmSpec, check_names, read_arms, read_name, read_opts
from .trainer_flags import read_trainer_flags
from .tuning_keys import TUNING_KEYS, is_factor, read_grid

KEYS = (
    "name",
    "base",
    "arms",
    "seeds",
    "margin",
    "reference",
    "opts",
    "budget",
    "imports",
    "datasets",
    "folds",
    "ignore_categories",
    *TUNING_KEYS,
    "score_threshold",
    "initial_weights",
    "diagnostics",
    "evaluations",
    "trainer_flags",
)
BUDGET_KEYS = ("iterations", "total_iterations")
INITIAL_WEIGHTS = ("by_name", "stock")
DIAGNOSTICS_PERIOD = 20


@dataclass(frozen=True)
class Spec:
    """
    Content of a spec.

    Attributes:
        name: title of the report, and folder of the runs below `runs/`.
        seeds: seeds, and when the results are judged.
        margin: largest difference in AP that does not matter, percent; None without one.
        iterations: `SOLVER.MAX_ITER` of every arm; None keeps the value of each arm.
        total_iterations: upper limit for all runs together; None for no limit.
        imports: modules that register components; files are absolute.
        datasets: files that every run registers.
        parts: the datasets that the arms are compared on, each with runs of its own; () for that of
            the configs.
        folds: how the training set is split into such datasets; None without a cross-validation.
        ignore_categories: categories of ``datasets`` whose annotations are ignore regions.
        grid: settings to try for each arm; None without tuning.
        score_threshold: cut-off of the evaluation for arms that set none; None keeps Detectron2's.
        diagnostics: period of the diagnostics in iterations; 0 turns them off.
        evaluations: number of evaluations of a run at equal distances, the last one after training;
            0 for those of its config.
        trainer_flags: see :data:`~.trainer_flags.TRAINER_FLAGS`.
        part: name of the part that the spec is about; "" if it has no parts.
    """

    name: str
    arms: dict[str, ArmSpec]
    seeds: SeedChoice
    margin: float | None
    reference: str
    opts: tuple[str, ...]
    iterations: int | None
    total_iterations: int | None
    imports: tuple[str, ...]
    datasets: tuple[DatasetArgument, ...]
    parts: tuple[DatasetPart, ...]
    folds: Folds | None
    ignore_categories: tuple[str, ...]
    grid: Grid | None
    score_threshold: float | None
    initial_weights: str
    diagnostics: int
    evaluations: int
    trainer_flags: tuple[str, ...]
    part: str = ""

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the datasets or folds that the arms are compared on; () for one dataset."""
        return tuple(part.name for part in self.parts) if self.folds is None else self.folds.names

    def on(self, part: DatasetPart) -> Spec:
        """Return the spec on one of its parts."""
        opts = without_datasets(self.opts) if self.folds else self.opts
        return replace(
            self,
            datasets=(*self.datasets, *part.files),
            opts=(*opts, *part.all_opts),
            parts=(),
            folds=None,
            part=part.name,
        )


def read_spec(file: Path) -> Spec:
    """
    Read a spec; every path in it is relative to the file.

    Raises:
        ValueError: the file is not safe YAML, has a duplicate key, or has an illegal value.
        KeyError: a key does not exist, or the reference is not an arm.
        FileNotFoundError: the spec, or a file that it names, does not exist.
    """
    content = load(read_text(file), "the file")
    if not isinstance(content, dict):
        raise ValueError(f"must be a mapping with {', '.join(KEYS)}")
    check_names(content, KEYS, "key")
    if not {"arms", "seeds"} <= content.keys():
        raise ValueError("must have the keys arms and seeds")
    arms = read_arms(content["arms"], content.get("base"), file.parent)
    budget = _section(content, "budget", BUDGET_KEYS)
    seeds = read_seed_choice(content["seeds"], file.parent)
    sections = {key: _section(content, key, of) for key, of in TUNING_KEYS.items()}
    grid = read_grid({key: of for key, of in sections.items() if key in content}, seeds)
    trials = len(grid.settings) * len(grid.seeds) if grid else 0
    num_runs = len(arms) * (len(seeds.seeds) + trials)
    if num_runs > MAX_RUNS:
        raise ValueError(f"arms, seeds and trials make {num_runs} runs, over {MAX_RUNS}")
    opts = read_opts(content.get("opts", []), "opts")
    datasets, parts = read_datasets(_section(content, "datasets", None), file.parent)
    folds = read_folds(content.get("folds"))
    check_parts(parts, folds, seeds, [opts, *(arm.opts for arm in arms.values())])
    score_threshold, opts = read_score_threshold(content, opts)
    fixed = {
        "SOLVER.MAX_ITER": "iterations of budget" if "iterations" in budget else None,
        "TEST.EVAL_PERIOD": "evaluations" if content.get("evaluations") else None,
    }
    for own in [part.opts for part in parts] or [()]:
        _refuse_twice(opts, own)
        _refuse_contradictions(arms, (*opts, *own), {key: by for key, by in fixed.items() if by})
    return Spec(
        name=_title(content["name"]) if "name" in content else file.stem,
        arms=arms,
        seeds=seeds,
        margin=_margin(content.get("margin")),
        reference=_reference(content, arms),
        opts=opts,
        iterations=_optional_count(budget, "iterations"),
        total_iterations=_optional_count(budget, "total_iterations"),
        imports=_imports(content.get("imports", []), file.parent),
        datasets=datasets,
        parts=parts,
        folds=folds,
        ignore_categories=_ignore_categories(content.get("ignore_categories", [])),
        grid=grid,
        score_threshold=score_threshold,
        initial_weights=_initial_weights(content.get("initial_weights", "by_name")),
        diagnostics=integer(content.get("diagnostics", DIAGNOSTICS_PERIOD), "diagnostics", 0),
        evaluations=integer(content.get("evaluations", 0), "evaluations", 0),
        trainer_flags=read_trainer_flags(content.get("trainer_flags", [])),
    )


def _refuse_twice(opts: tuple[str, ...], of_dataset: tuple[str, ...]) -> None:
    if twice := {*opts[::2]} & {*of_dataset[::2]}:
        raise ValueError(f"datasets: {min(twice)} is already in opts, for all datasets")


def _refuse_contradictions(
    arms: dict[str, ArmSpec], opts: tuple[str, ...], fixed: dict[str, str]
) -> None:
    """Raise an error if an option is given in two places."""
    for name, arm in arms.items():
        twice = set(arm.opts[::2]) & set(opts[::2])
        if twice:
            raise ValueError(f"arm {shown(name)}: {min(twice)} is already in opts, for all arms")
    everywhere = {*opts[::2]}.union(*(arm.opts[::2] for arm in arms.values()))
    for key, by in fixed.items():
        if key in everywhere:
            raise ValueError(f"{key} cannot be combined with {by}")


def _reference(content: dict[str, Any], arms: dict[str, ArmSpec]) -> str:
    reference = content.get("reference", next(iter(arms)))
    check_names([reference], arms, "arm (reference)")
    return reference


def _section(content: dict[str, Any], name: str, known: tuple[str, ...] | None) -> dict[str, Any]:
    section = content.get(name, {})
    if not isinstance(section, dict):
        raise ValueError(f"{name} must be a mapping, got {shown(section)}")
    if known is not None:
        check_names(section, known, f"key of {name}")
    return section


def _optional_count(section: dict[str, Any], name: str) -> int | None:
    return integer(section[name], f"budget: {name}", 1) if name in section else None


def _title(name: Any) -> str:
    title = read_name(name, "name")
    if "/" in title or title in {".", ".."}:
        raise ValueError(f"name {shown(title)} must be the name of a folder, not a path")
    return title


def _margin(value: Any) -> float | None:
    if value is not None and not is_factor(value):
        raise ValueError(f"margin must be a difference in AP > 0, got {shown(value)}")
    return None if value is None else float(value)


def _imports(imports: Any, folder: Path) -> tuple[str, ...]:
    if not isinstance(imports, list) or not all(isinstance(name, str) for name in imports):
        raise ValueError(f"imports must be a list of modules or .py files, got {imports!r}")
    return tuple(
        str((folder / Path(name).expanduser()).resolve()) if name.endswith(".py") else name
        for name in imports
    )


def _ignore_categories(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"ignore_categories must be a list of names, got {shown(names)}")
    return tuple(names)


def _initial_weights(value: Any) -> str:
    if value not in INITIAL_WEIGHTS:
        raise ValueError(f"initial_weights must be one of {INITIAL_WEIGHTS}, got {shown(value)}")
    return value
