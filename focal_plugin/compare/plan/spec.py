"""Runs of a spec, each with its resolved config."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ... import arms
from ...components import component_digests, import_components
from ...config import get_cfg
from ...data import check_classes, num_classes_of_model, registered, use_datasets
from ...files import sha256_of
from .arm_errors import each_arm
from .comparison import Comparison, Run, slug
from .design import Design, LooksToPlan
from .loss_weight import origin_of
from .parts import FOLD_FOLDER, write_folds
from .score_threshold import score_threshold_options
from .seeds import SeedChoice
from .setting import EQUAL, Origin, Setting
from .spec_file import ArmSpec, Spec, as_argument, check_names, read_spec
from .tuning_split import TuningSplit, split_training_set

Check = Callable[[CfgNode, tuple[str, ...]], None]
"""Check of the config of an arm that is trained with some trainer flags."""


@dataclass(frozen=True)
class Plan:
    """
    A comparison, and what its runs are made of.

    Attributes:
        configs: arm -> resolved config, whose device may be "auto".
        splits: training set -> split for the trials; {} without tuning. Its files do not exist
            until :func:`~.tuning_split.write_splits` writes them.
    """

    comparison: Comparison
    configs: Mapping[str, CfgNode]
    splits: Mapping[str, TuningSplit] = field(default_factory=dict)


ChooseDesign = Callable[[Spec, LooksToPlan], Design]
"""Function that plans the looks of a spec."""


def load_spec(file: Path, choose: ChooseDesign | None = None) -> Comparison:
    """Return the comparison of :func:`read_plan`."""
    return read_plan(file, choose=choose).comparison


def read_plan(
    file: Path, check: Check | None = None, *, choose: ChooseDesign | None = None
) -> Plan:
    """
    Return the plan of a spec on one dataset, see :func:`read_plans`.

    Raises:
        ValueError: the spec is on several datasets, or malformed.
    """
    plans = read_plans(file, check, choose=choose)
    if plans[0].comparison.part:
        raise ValueError(f"{file} is on several datasets or folds")
    return plans[0]


def read_plans(
    file: Path,
    check: Check | None = None,
    *,
    choose: ChooseDesign | None = None,
    folder: Path | None = None,
) -> tuple[Plan, ...]:
    """
    Read a spec and resolve the config of every run.

    The file is YAML::

        name: cells                     # title, and folder below runs/; default: that of the file
        base: ../Shapes-Detection/retinanet_small.yaml    # relative to the spec
        arms:
          CE: ce                                          # an arm, see `focal-compare arms`,
          mine: my_config.yaml                            # a config file,
          gamma 1: [MODEL.RETINANET.FOCAL_LOSS_GAMMA, 1]  # KEY, VALUE, ... on top of base,
          OHEM 64: {arm: ohem, opts: [MODEL.FOCAL.MINING.NUM_KEEP, 64]}    # or several of these
        seeds: 6                            # 1 to 6; or a list; or planned looks:
        # seeds: {looks: [6, 9, 12, 15], effect: 2.0, power: .8}
        # seeds: auto                       # looks for 2 AP at the spread of earlier comparisons
        margin: 1.0                         # a smaller difference in AP does not matter
        reference: CE                       # default: the first arm
        opts: [SOLVER.BASE_LR, 0.01]        # for all arms
        budget:
          iterations: 400                   # per run; STEPS and WARMUP_ITERS scale with it
          total_iterations: 20000           # all runs together; more is an error
        imports: [my_losses.py]             # modules that register components of your own
        datasets: {my_val: val.json:images}          # registered in each run; for use in opts
        # datasets: {a: {train: a/train.json:a, test: a/val.json:a}, b: ...}   # compared on each
        # folds: 5                          # cross-validation of the training set
        ignore_categories: [DontCare]       # of datasets: boxes that are ignore regions
        learning_rates: {factors: [0.5, 1, 2], seeds: [101, 102, 103]}    # tuned per arm
        loss_weights: {factors: [1, 4]}     # of the classification loss, tuned per arm
        score_threshold: 0.001              # of the evaluation, for all arms; or stock
        initial_weights: by_name            # MODEL.FOCAL.INIT; or stock
        diagnostics: 20                     # MODEL.FOCAL.DIAGNOSTICS.PERIOD
        evaluations: 10                     # of each run, one every tenth of it; sets EVAL_PERIOD
        trainer_flags: [allow-outside-root]     # of train_net.py, for all runs

    Without `score_threshold`, the evaluation of an arm that keeps Detectron2's score cut-off of .05
    starts from .001. A cut-off that a config or an arm sets stays.

    If no arm sets `MODEL.DEVICE`, a run chooses the device when it starts, and the device is not
    part of the config hash. So a comparison that is planned without a GPU is the same with GPUs.

    Args:
        file: the spec.
        check: called with the config of each arm and the trainer flags, while the datasets of the
            spec are registered. It raises an error if the arm cannot run.
        choose: plans the looks if the spec says "auto".
        folder: folder of the comparison, where the files of the folds are written, each in the
            folder of its part. Without one, they are not kept.

    Returns:
        One plan, or one for each dataset or fold. Its comparison has the runs of role "equal", seed
        by seed, so that the arms can be compared early, then those of role "tuning". With planned
        looks, it has the runs of the first look.

    Raises:
        ValueError: the spec is malformed, two arms have the same config, or the runs require more
            iterations than the budget allows. An :class:`~.arm_errors.ArmsError` has one line for
            each cause why an arm's config cannot be resolved, or why ``check`` refuses it.
        ComponentImportError: a module of ``imports`` cannot be imported.
        KeyError: a key of the spec does not exist.
        FileNotFoundError: a file that the spec names does not exist.
    """
    with _naming(str(file)), _kept(folder) as kept:
        spec = _with_seeds(read_spec(file), choose)
        plans = tuple(_plan(part, check) for part in _parts(spec, kept))
        _check_total(spec, plans)
    return plans


def _plan(spec: Spec, check: Check | None) -> Plan:
    """Return the plan of a spec on one dataset."""
    with _naming(spec.part) if spec.part else contextlib.nullcontext():
        runs = _Runs(spec, check)
    comparison = _comparison(spec, runs)  # plans the trials, which split the training sets
    return Plan(comparison, runs.configs, runs.splits)


def _comparison(spec: Spec, runs: _Runs) -> Comparison:
    """Return the comparison of a spec on one dataset, with the runs that are known at its start."""
    equal, trials = runs.first_runs(), runs.trials()
    seeds, design = spec.seeds.seeds, spec.seeds.design
    return Comparison(
        name=f"{runs.name}: {spec.part}" if spec.part else runs.name,
        arms=tuple(spec.arms),
        reference=spec.reference,
        seeds=seeds,
        runs=(*equal, *trials),
        grid=spec.grid,
        origins=runs.origins,
        design=design,
        margin=spec.margin,
        part=spec.part,
    )


def _parts(spec: Spec, folder: Path) -> list[Spec]:
    """Return the spec of each dataset or fold; the spec itself if there is one dataset."""
    if spec.folds is None:
        return [spec.on(part) for part in spec.parts] or [spec]
    folders = [folder / slug(part) / FOLD_FOLDER for part in spec.part_names]
    import_components(spec.imports)
    with registered(spec.datasets, spec.ignore_categories):
        name = _folded_dataset(spec)
        return [spec.on(part) for part in write_folds(name, spec.folds, folders)]


def _folded_dataset(spec: Spec) -> str:
    """
    Return the training set of all arms.

    Raises:
        ValueError: an arm has another one, or several.
    """
    found: dict[str, None] = {}
    names = [dataset.name for dataset in spec.datasets]
    with each_arm() as of_arm:
        for name, arm in spec.arms.items():
            with of_arm(name):
                cfg, opts = _merged(arm, spec, _read_config)
                if "DATASETS.TRAIN" in opts[::2] or not names:
                    found |= dict.fromkeys(cfg.DATASETS.TRAIN)
                elif len(names) == 1:
                    found |= dict.fromkeys(names)
                else:
                    use_datasets(cfg, names, opts=opts, training=True)
                    found |= dict.fromkeys(cfg.DATASETS.TRAIN)
    if len(found) != 1:
        raise ValueError(
            f"folds: all arms must have one training set, the same one, got {', '.join(found)}"
        )
    return next(iter(found))


@contextlib.contextmanager
def _kept(folder: Path | None) -> Iterator[Path]:
    """Provide a folder, or one that is deleted afterwards."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def best_runs(
    file: Path, comparison: Comparison, best: Mapping[str, Setting], folder: Path | None = None
) -> tuple[Run, ...]:
    """
    Return the runs of each arm at its best setting.

    Args:
        file: spec of ``comparison``.
        best: arm -> best setting of the grid; without the arms that have no finished trial.
        folder: see :func:`read_plans`.

    Returns:
        Runs of role "best", seed by seed. An arm whose own setting is best has none, because its
        "equal" runs are its best ones.

    Raises:
        ValueError: the spec has changed, or a setting is not in the grid.
        KeyError: ``best`` has an arm that is not in the comparison.
    """
    runs = _unchanged_runs(file, comparison, folder)
    check_names(best, comparison.arms, "arm")
    settings = comparison.grid.settings if comparison.grid else ()
    for arm, setting in best.items():
        if setting not in settings:
            raise ValueError(f"arm {arm!r}: {setting} is not in the grid of the comparison")
    return tuple(
        runs.run(arm, seed, "best", best[arm])
        for seed in comparison.seeds
        for arm in comparison.arms
        if best.get(arm, EQUAL) != EQUAL
    )


def further_runs(
    file: Path, comparison: Comparison, arms: Sequence[str], count: int
) -> tuple[Run, ...]:
    """
    Return the runs of the next look that the comparison does not have yet.

    Args:
        file: spec of ``comparison``.
        arms: arms that need further seeds.
        count: number of seeds at the look.

    Raises:
        ValueError: the spec has changed.
    """
    runs = _unchanged_runs(file, comparison)
    made = [runs.run(arm, seed) for seed in comparison.seeds[:count] for arm in arms]
    known = {run.id for run in comparison.runs}
    return tuple(run for run in made if run.id not in known)


def _unchanged_runs(file: Path, comparison: Comparison, folder: Path | None = None) -> _Runs:
    """
    Return the factory of the runs of a comparison.

    Raises:
        ValueError: the spec no longer plans the first runs and the trials of the comparison.
    """
    with _naming(str(file)), _kept(folder) as kept:
        spec = _with_seeds(read_spec(file), lambda spec, to_plan: comparison.looks)
        own = next((p for p in _parts(spec, kept) if p.part == comparison.part), spec)
        runs = _Runs(own)
    planned = {run.id for run in runs.first_runs()}
    tuned = (runs.grid, runs.origins) == (comparison.grid, comparison.origins)
    if not (tuned and planned <= {run.id for run in comparison.runs}):
        raise ValueError(
            f"{file}: the spec or one of its configs has changed since the comparison started"
        )
    return runs


def _with_seeds(spec: Spec, choose: ChooseDesign | None) -> Spec:
    """Return the spec with its looks planned."""
    if spec.seeds.to_plan is None:
        return spec
    if choose is None:
        raise ValueError("seeds: auto is planned by `focal-compare run` and `focal-compare plan`")
    return replace(spec, seeds=SeedChoice.of(choose(spec, spec.seeds.to_plan)))


@dataclass(frozen=True)
class _Data:
    """
    Data of a run.

    Attributes:
        datasets: `NAME=JSON:IMAGES` of the registered datasets.
        digests: name -> digest of the annotations.
        ignored: categories that are ignore regions.
        opts: KEY, VALUE, ... that use the datasets.
    """

    datasets: tuple[str, ...]
    digests: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    opts: tuple[str, ...] = ()


class _Runs:
    """
    Factory of the runs of a spec; it resolves the config of each arm once.

    Attributes:
        splits: training set -> split for the trials, as soon as a trial is made.
    """

    def __init__(self, spec: Spec, check: Check | None = None) -> None:
        self.name = spec.name
        self.grid = spec.grid
        self._spec = spec
        self._data = _Data(
            datasets=tuple(map(as_argument, spec.datasets)),
            digests={d.name: sha256_of(d.json_file) for d in spec.datasets},
            ignored=spec.ignore_categories,
        )
        self.splits: dict[str, TuningSplit] = {}
        self.origins: dict[str, Origin] = {}
        import_components(spec.imports)  # their config keys exist from now on
        self._opts: dict[str, tuple[str, ...]] = {}
        self.configs: dict[str, CfgNode] = {}
        self._changes: dict[tuple[str, tuple[str, ...]], CfgNode] = {}
        read = cache(_read_config)
        with registered(spec.datasets, spec.ignore_categories), each_arm() as of_arm:
            for name, arm in spec.arms.items():
                with of_arm(name):
                    self._opts[name], self.configs[name] = _resolve(arm, spec, read)
                    self._refuse_other_test(name)
                    if check is not None:
                        check(self.configs[name].clone(), spec.trainer_flags)
                    if spec.grid is not None:
                        self.origins[name] = origin_of(self.configs[name], spec.grid)
        self._refuse_same_configs()

    def first_runs(self) -> list[Run]:
        """Return the runs of role "equal": of the first look, or of all seeds."""
        seeds, design = self._spec.seeds.seeds, self._spec.seeds.design
        first = seeds if design is None else seeds[: design.looks[0]]
        return [self.run(arm, seed) for seed in first for arm in self._spec.arms]

    def trials(self) -> list[Run]:
        """Return the runs of role "tuning", which train and test on :attr:`splits`."""
        if self.grid is None:
            return []
        data = self._data_of_trials()
        return [
            self._run(arm, seed, "tuning", setting, data[arm])
            for seed in self.grid.seeds
            for arm in self._spec.arms
            for setting in self.grid.settings
        ]

    def run(self, arm: str, seed: int, role: str = "equal", setting: Setting = EQUAL) -> Run:
        """Return a run on the datasets of its arm."""
        return self._run(arm, seed, role, setting, self._data)

    def _run(self, arm: str, seed: int, role: str, setting: Setting, data: _Data) -> Run:
        changes = data.opts
        if setting != EQUAL:
            changes = (*self.origins[arm].options(setting), *changes)
        cfg = self._changed(arm, changes) if changes else self.configs[arm]
        return Run(
            arm=arm,
            seed=seed,
            config_file=str(self._spec.arms[arm].config_file),
            opts=(*self._opts[arm], *changes, "SEED", str(seed)),
            datasets=data.datasets,
            config_hash=self._hash(cfg, seed, data),
            iterations=cfg.SOLVER.MAX_ITER,
            role=role,
            setting=setting,
            imports=self._spec.imports,
            ignore_categories=data.ignored,
            trainer_flags=self._spec.trainer_flags,
        )

    def _changed(self, arm: str, changes: tuple[str, ...]) -> CfgNode:
        """Return the config of an arm with other values; the same for all seeds."""
        if (arm, changes) not in self._changes:
            cfg = self.configs[arm].clone()
            cfg.merge_from_list(list(changes))
            self._changes[arm, changes] = cfg
        return self._changes[arm, changes]

    def _data_of_trials(self) -> dict[str, _Data]:
        """Split the training sets of all arms, and return arm -> data of its trials."""
        found = {}
        with (
            registered(self._spec.datasets, self._spec.ignore_categories),
            each_arm() as of_arm,
        ):
            for arm, cfg in self.configs.items():
                with of_arm(arm):
                    if cfg.MODEL.LOAD_PROPOSALS:
                        raise ValueError("trials cannot use the proposals of MODEL.LOAD_PROPOSALS")
                    names = cfg.DATASETS.TRAIN
                    for name in names:
                        if name not in self.splits:
                            self.splits[name] = split_training_set(name)
                    found[arm] = _trial_data([self.splits[name] for name in names])
        return found

    def _hash(self, cfg: CfgNode, seed: int, data: _Data) -> str:
        """Return the hash of all that affects the result, without folders and dataset paths."""
        config = {**cfg, "SEED": seed, "OUTPUT_DIR": ""}
        others = filter(None, [component_digests(cfg), data.ignored])
        content = json.dumps([config, data.digests, *others], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def _refuse_same_configs(self) -> None:
        first: dict[str, str] = {}
        for arm, cfg in self.configs.items():
            same = first.setdefault(self._hash(cfg, 0, self._data), arm)
            if same != arm:
                raise ValueError(f"arms {same!r} and {arm!r} have the same config")

    def _refuse_other_test(self, arm: str) -> None:
        first = next(iter(self.configs))
        tests, expected = (self.configs[name].DATASETS.TEST for name in (arm, first))
        if tests != expected:
            raise ValueError(
                f"DATASETS.TEST is {tests}, but that of {first!r} is {expected}: an AP on other "
                "images cannot be compared"
            )


def _trial_data(splits: Sequence[TuningSplit]) -> _Data:
    """Return the data of trials; the ignore regions of the parts are crowd regions already."""
    parts = [part for split in splits for part in split.parts]
    train, val = ([getattr(split, use).dataset for split in splits] for use in ("train", "val"))
    return _Data(
        datasets=tuple(part.argument for part in parts),
        digests={part.dataset: part.sha256 for part in parts},
        opts=("DATASETS.TRAIN", str(tuple(train)), "DATASETS.TEST", str(tuple(val))),
    )


def _read_config(file: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "auto"
    cfg.merge_from_file(str(file))
    return cfg


def _merged(arm: ArmSpec, spec: Spec, read: Callable[[Path], CfgNode]) -> tuple[CfgNode, list[str]]:
    """Return the config of an arm with all options of the spec, and these options."""
    cfg = read(arm.config_file).clone()
    opts = arms.apply(cfg, *arm.names)
    cfg.merge_from_list(list(arm.opts))
    with _naming("opts"):
        cfg.merge_from_list(list(spec.opts))
    return cfg, [*opts, *arm.opts, *spec.opts]


def _resolve(
    arm: ArmSpec, spec: Spec, read: Callable[[Path], CfgNode]
) -> tuple[tuple[str, ...], CfgNode]:
    """Return the options that all runs of an arm share, and the config with them."""
    cfg, opts = _merged(arm, spec, read)
    cut_off = score_threshold_options(cfg, opts, spec.score_threshold)
    cfg.merge_from_list(cut_off)
    opts += cut_off
    if cfg.SOLVER.MAX_ITER < 1:
        raise ValueError(f"SOLVER.MAX_ITER must be >= 1, got {cfg.SOLVER.MAX_ITER}")
    if spec.iterations is not None:
        budget = _scaled_schedule(cfg, spec.iterations)
        cfg.merge_from_list(budget)
        opts += budget
    before = (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    names = [dataset.name for dataset in spec.datasets]
    use_datasets(cfg, names, opts=opts, training=True)
    if spec.part:
        opts += _classes_of(cfg, opts)
    if before != (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST):
        opts += ["DATASETS.TRAIN", str(cfg.DATASETS.TRAIN)]
        opts += ["DATASETS.TEST", str(cfg.DATASETS.TEST)]
    fixed = ["MODEL.FOCAL.INIT", spec.initial_weights]
    fixed += ["MODEL.FOCAL.DIAGNOSTICS.PERIOD", str(spec.diagnostics)]
    cfg.merge_from_list(fixed)
    if not cfg.DATASETS.TEST:
        raise ValueError(f"DATASETS.TEST must name a dataset, got {cfg.DATASETS.TEST}")
    check_classes(cfg)
    return (*opts, *fixed, *_evaluations(cfg, spec.evaluations)), cfg


def _classes_of(cfg: CfgNode, opts: Sequence[str]) -> list[str]:
    """Return the option that sets the number of classes to that of the training set."""
    found = num_classes_of_model(cfg)
    classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
    if found is None or classes is None or found[0] in opts[::2]:
        return []
    option = [found[0], str(len(classes))]
    cfg.merge_from_list(option)
    return option


def _evaluations(cfg: CfgNode, number: int) -> list[str]:
    """
    Return the option for a number of evaluations, the last of which is after training.

    The option is not in the config, so that it does not change the hash of a run: an evaluation has
    no effect on the weights. PreciseBN is the exception.
    """
    if not number:
        return []
    period = math.ceil(cfg.SOLVER.MAX_ITER / number) if number > 1 else 0
    option = ["TEST.EVAL_PERIOD", str(period)]
    if cfg.TEST.PRECISE_BN.ENABLED:
        cfg.merge_from_list(option)
    return option


def _scaled_schedule(cfg: CfgNode, iterations: int) -> list[str]:
    """
    Return the options that scale a schedule to ``iterations``.

    `SOLVER.STEPS` and `WARMUP_ITERS` scale in proportion, rounded, at least 1; a warm-up of 0 stays
    0. Equal steps become one. A step at the end is dropped, because Detectron2 rejects it.
    """
    solver, factor = cfg.SOLVER, iterations / cfg.SOLVER.MAX_ITER
    scaled = dict.fromkeys(max(1, round(step * factor)) for step in solver.STEPS)
    steps = tuple(step for step in scaled if step < iterations)
    warmup = max(1, round(solver.WARMUP_ITERS * factor)) if solver.WARMUP_ITERS else 0
    return [
        *("SOLVER.MAX_ITER", str(iterations)),
        *("SOLVER.STEPS", repr(steps)),
        *("SOLVER.WARMUP_ITERS", str(warmup)),
    ]


def _check_total(spec: Spec, plans: Sequence[Plan]) -> None:
    """Raise an error if the budget is too small; with tuning, each arm may train twice."""
    if spec.total_iterations is None:
        return
    one_seed = sum(cfg.SOLVER.MAX_ITER for plan in plans for cfg in plan.configs.values())
    once = len(spec.seeds.seeds) * one_seed
    tune = one_seed * len(spec.grid.settings) * len(spec.grid.seeds) if spec.grid else 0
    again = once if spec.grid else 0
    if once + tune + again > spec.total_iterations:
        raise ValueError(
            f"budget: the runs take up to {once + tune + again} iterations ({once} at the "
            f"settings of the configs, {tune} to tune them, {again} at the best ones), but "
            f"total_iterations is {spec.total_iterations}"
        )


@contextlib.contextmanager
def _naming(place: str) -> Iterator[None]:
    """Prefix errors with a place."""
    try:
        yield
    except KeyError as error:
        raise KeyError(f"{place}: {error.args[0]}") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{place}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
