"""Runs of a spec, each with its resolved config."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from detectron2.config import CfgNode

from ...components import import_components
from ...data import registered, use_datasets
from .arm_errors import each_arm, naming
from .comparison import Comparison, Run, slug
from .design import Design, LooksToPlan
from .folds import FOLD_FOLDER, write_folds
from .resolved_config import merged, read_config
from .run_factory import Check, RunFactory
from .seeds import SeedChoice
from .setting import EQUAL, Setting
from .spec_arms import check_names
from .spec_file import Spec, read_spec
from .tuning_split import TuningSplit


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
    with naming(str(file)), _kept(folder) as kept:
        spec = _with_seeds(read_spec(file), choose)
        plans = tuple(_plan(part, check) for part in _parts(spec, kept))
        _check_total(spec, plans)
    return plans


def _plan(spec: Spec, check: Check | None) -> Plan:
    """Return the plan of a spec on one dataset."""
    with naming(spec.part) if spec.part else contextlib.nullcontext():
        runs = RunFactory(spec, check)
    comparison = _comparison(spec, runs)  # plans the trials, which split the training sets
    return Plan(comparison, runs.configs, runs.splits)


def _comparison(spec: Spec, runs: RunFactory) -> Comparison:
    """Return the comparison of a spec on one dataset, with the runs that are known at its start."""
    return Comparison(
        name=f"{spec.name}: {spec.part}" if spec.part else spec.name,
        arms=tuple(spec.arms),
        reference=spec.reference,
        seeds=spec.seeds.seeds,
        runs=(*runs.first_runs(), *runs.trials()),
        grid=spec.grid,
        origins=runs.origins,
        design=spec.seeds.design,
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
                cfg, opts = merged(arm, spec, read_config)
                if len(names) == 1 and "DATASETS.TRAIN" not in opts[::2]:
                    cfg.DATASETS.TRAIN = tuple(names)
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


def _unchanged_runs(file: Path, comparison: Comparison, folder: Path | None = None) -> RunFactory:
    """
    Return the factory of the runs of a comparison.

    Raises:
        ValueError: the spec no longer plans the first runs and the trials of the comparison.
    """
    with naming(str(file)), _kept(folder) as kept:
        spec = _with_seeds(read_spec(file), lambda spec, to_plan: comparison.looks)
        own = next((p for p in _parts(spec, kept) if p.part == comparison.part), spec)
        runs = RunFactory(own)
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
