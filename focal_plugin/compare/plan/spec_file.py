"""Content of a spec file, checked for its form; no config is read here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ... import arms as arms_by_name
from ...config_file import find_config_file
from ...data.registration import DatasetArgument, parse_dataset_argument
from ...names import did_you_mean, shown
from ...yaml_text import load, read_text
from .arm_errors import each_arm
from .parts import DatasetPart, Folds, read_dataset_part, read_folds, without_datasets
from .score_threshold import read_score_threshold
from .seeds import MAX_RUNS, SeedChoice, integer, read_seed_choice
from .setting import Grid
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
ARM_KEYS = ("config", "arm", "opts")
CONFIG_SUFFIXES = {".yaml", ".yml"}
BUDGET_KEYS = ("iterations", "total_iterations")
INITIAL_WEIGHTS = ("by_name", "stock")
DIAGNOSTICS_PERIOD = 20
MAX_NAME = 80
# Config key -> where the spec sets it, so that no option can contradict the spec
NOT_AN_OPTION = {
    "SEED": "use the key seeds",
    "OUTPUT_DIR": "each run has its own folder",
    "MODEL.FOCAL.INIT": "use the key initial_weights",
    "MODEL.FOCAL.DIAGNOSTICS.PERIOD": "use the key diagnostics",
}


@dataclass(frozen=True)
class ArmSpec:
    """
    A config, and what differs from it.

    Attributes:
        config_file: absolute path.
        names: arms of `focal_plugin.arms`, applied in this order.
        opts: KEY, VALUE, ... on top of them.
    """

    config_file: Path
    names: tuple[str, ...] = ()
    opts: tuple[str, ...] = ()


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
    arms = _arms(content["arms"], content.get("base"), file.parent)
    budget = _section(content, "budget", BUDGET_KEYS)
    seeds = read_seed_choice(content["seeds"], file.parent)
    sections = {key: _section(content, key, of) for key, of in TUNING_KEYS.items()}
    grid = read_grid({key: of for key, of in sections.items() if key in content}, seeds)
    trials = len(grid.settings) * len(grid.seeds) if grid else 0
    num_runs = len(arms) * (len(seeds.seeds) + trials)
    if num_runs > MAX_RUNS:
        raise ValueError(f"arms, seeds and trials make {num_runs} runs, over {MAX_RUNS}")
    opts = _opts(content.get("opts", []), "opts")
    datasets, parts = _datasets(_section(content, "datasets", None), file.parent)
    folds = read_folds(content.get("folds"))
    _check_parts(parts, folds, seeds, [opts, *(arm.opts for arm in arms.values())])
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


def check_names(given: Iterable[Any], known: Iterable[str], what: str) -> None:
    """
    Raise an error if a name is unknown.

    Raises:
        KeyError: a name is unknown; the message has the closest known one.
    """
    known = list(known)
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
            raise KeyError(f"no {what} is named {shown(name)}{hint}")


def _arms(arms: Any, base: Any, folder: Path) -> dict[str, ArmSpec]:
    if not isinstance(arms, dict | list) or not arms:
        raise ValueError(
            "arms must be a list of arms by name, or map names to arms, config files or options"
        )
    base_file = None if base is None else _config_file(base, folder, "base")
    by_name = arms if isinstance(arms, dict) else _listed(arms)
    made = {}
    with each_arm() as of_arm:
        for name, arm in by_name.items():
            with of_arm(_name(name, "arm")):
                made[name] = _arm(arm, base_file, folder)
    return made


def _title(name: Any) -> str:
    title = _name(name, "name")
    if "/" in title or title in {".", ".."}:
        raise ValueError(f"name {shown(title)} must be the name of a folder, not a path")
    return title


def _listed(entries: list[Any]) -> dict[Any, Any]:
    """Return name -> arm for a list of names, of {group: GROUP}, and of {NAME: ARM}."""
    listed: dict[Any, Any] = {}
    of_groups: set[str] = set()
    for entry in entries:
        if isinstance(entry, dict) and len(entry) == 1:
            ((name, arm),) = entry.items()
        elif isinstance(entry, str):
            name, arm = entry.rpartition("/")[2], entry
        else:
            raise ValueError(
                f"arms: must be NAME, {{group: GROUP}} or {{NAME: ARM}}, got {shown(entry)}"
            )
        if name == "group":
            for member in arms_by_name.names_of_group(arm):
                short = member.rpartition("/")[2]
                if short not in listed:
                    listed[short] = member
                    of_groups.add(short)
        elif name in listed and name not in of_groups:
            raise ValueError(f"arms: {shown(name)} stands twice")
        else:
            listed[name] = arm  # an entry of its own replaces that of a group
            of_groups.discard(name)
    return listed


def _name(name: Any, what: str) -> str:
    if not isinstance(name, str):
        raise ValueError(f"{what} {shown(name)}: a name must be text; put it in quotes")
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        invisible = next((f": {c!a} is invisible" for c in name if not c.isprintable()), "")
        raise ValueError(
            f"{what} {shown(name)}: a name must have 1 to {MAX_NAME} visible characters{invisible}"
        )
    return name


def _arm(arm: Any, base: Path | None, folder: Path) -> ArmSpec:
    if isinstance(arm, str):
        arm = {"config": arm} if Path(arm).suffix else {"arm": arm}
    if isinstance(arm, list):
        arm = {"opts": arm}
    if not isinstance(arm, dict):
        raise ValueError(
            f"must be the name of an arm, a config file, [KEY, VALUE, ...] on top of base, "
            f"or {{config: FILE, arm: NAME, opts: [KEY, VALUE, ...]}}, got {shown(arm)}"
        )
    check_names(arm, ARM_KEYS, "key")
    names = _arm_names(arm.get("arm", []))
    config_file = _config_file(arm["config"], folder, "config") if "config" in arm else base
    if config_file is None:
        raise ValueError("names no config file, and there is no base")
    return ArmSpec(config_file, names, _opts(arm.get("opts", []), "opts"))


def _arm_names(names: Any) -> tuple[str, ...]:
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ValueError(f"arm must be a name, or a list of names, got {shown(names)}")
    for name in listed:
        family, _, short = name.rpartition("/")
        check_names([short], arms_by_name.names(family or None), "arm")
    return tuple(listed)


def _config_file(text: Any, folder: Path, place: str) -> Path:
    if not isinstance(text, str) or Path(text).suffix not in CONFIG_SUFFIXES:
        raise ValueError(f"{place} must name a .yaml config file, got {shown(text)}")
    try:
        return find_config_file(text, folder).resolve()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{place}: {error}") from None


def _opts(opts: Any, place: str) -> tuple[str, ...]:
    """Return KEY, VALUE, ... in the form of a command line."""
    if not isinstance(opts, list) or len(opts) % 2:
        raise ValueError(f"{place}: options must be a list [KEY, VALUE, ...], got {shown(opts)}")
    keys, values = opts[::2], opts[1::2]
    seen: set[str] = set()
    for key in keys:
        if not isinstance(key, str):
            raise ValueError(
                f"{place}: options must be [KEY, VALUE, ...], got the key {shown(key)}"
            )
        if key in NOT_AN_OPTION:
            raise ValueError(f"{place}: {key} is not an option: {NOT_AN_OPTION[key]}")
        if key in seen:
            raise ValueError(f"{place}: {key} is given twice")
        seen.add(key)
    pairs = zip(keys, values, strict=True)
    return tuple(part for key, value in pairs for part in (key, _value(value, f"{place}: {key}")))


def _value(value: Any, place: str) -> str:
    """Return text unchanged, so that "(320, 380)" is a tuple, and the repr of anything else."""
    if isinstance(value, str):
        return value
    _check_plain(value, place)
    return repr(value)


def _check_plain(value: Any, place: str) -> None:
    if isinstance(value, list):
        for element in value:
            _check_plain(element, place)
    elif value is not None and not isinstance(value, str | bool | int | float):
        raise ValueError(f"{place} must be a number, text, true, false, null or a list of these")


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


def _datasets(
    section: dict[Any, Any], folder: Path
) -> tuple[tuple[DatasetArgument, ...], tuple[DatasetPart, ...]]:
    """Return the datasets to register, and those to compare on: entries with train and test."""

    def read_file(name: str, text: str, place: str) -> DatasetArgument:
        return _dataset(name, text, folder, place)

    files, parts = [], []
    for name, entry in section.items():
        if isinstance(entry, dict):
            parts.append(read_dataset_part(_name(name, "dataset"), entry, read_file, _opts))
        else:
            files.append(read_file(name, entry, f"datasets: {shown(name)}"))
    return tuple(files), tuple(parts)


def _check_parts(
    parts: tuple[DatasetPart, ...],
    folds: Folds | None,
    seeds: SeedChoice,
    opts: Iterable[tuple[str, ...]],
) -> None:
    """Check what a comparison on several datasets requires of the rest of the spec."""
    if not parts and folds is None:
        return
    several = "folds" if folds else "datasets"
    if parts and folds is not None:
        raise ValueError("folds and several datasets to compare on cannot be combined")
    if len(parts) == 1:
        raise ValueError(
            f"datasets: {shown(parts[0].name)} is the only one to compare on; name it in opts with "
            "DATASETS.TRAIN and DATASETS.TEST"
        )
    if seeds.has_looks:
        raise ValueError(
            f"{several}: a verdict over all of them requires a fixed number of seeds, without looks"
        )
    chosen = {"DATASETS.TRAIN", "DATASETS.TEST"}
    for key in sorted(chosen & {key for each in opts for key in each[::2]}):
        if parts or key == "DATASETS.TEST":
            raise ValueError(f"{several}: they set {key}, so it cannot be an option")


def _dataset(name: Any, text: Any, folder: Path, place: str) -> DatasetArgument:
    json_text, _, images_text = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not (isinstance(name, str) and name and json_text and images_text):
        raise ValueError(f"{place} must be NAME: annotations.json:image_dir, got {shown(text)}")
    json_file = _existing(json_text, folder, Path.is_file, f"{place}: no file")
    image_root = _existing(images_text, folder, Path.is_dir, f"{place}: no directory")
    dataset = DatasetArgument(name, json_file, image_root)
    if parse_dataset_argument(as_argument(dataset)) != dataset:
        raise ValueError(
            f'{place}: a name must not contain "=", and an image directory must not contain ":"'
        )
    return dataset


def _existing(text: str, folder: Path, exists: Callable[[Path], bool], error: str) -> Path:
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # a name that no file can have
        path = (folder / Path(text.strip()).expanduser()).resolve()
        if exists(path):
            return path
    raise FileNotFoundError(f"{error} {shown(text)}, seen from {folder}")


def as_argument(dataset: DatasetArgument) -> str:
    """Return a dataset in the form of `train_net.py --dataset`."""
    return f"{dataset.name}={dataset.json_file}:{dataset.image_root}"


def _initial_weights(value: Any) -> str:
    if value not in INITIAL_WEIGHTS:
        raise ValueError(f"initial_weights must be one of {INITIAL_WEIGHTS}, got {shown(value)}")
    return value
