"""Summary of a comparison: all numbers of its report, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...json_file import DamagedFileError
from ..plan.comparison import Comparison
from ..plan.design import Design
from ..plan.setting import EQUAL, Grid, Setting
from ..runs.audit_record import AuditRecord
from ..runs.run_folder import RunFolder, read_run_folders
from ..runs.status import STATES
from .busy import Load, SlowRun, load, slow_runs
from .class_differences import ClassDifferences, class_differences
from .detection_analysis import DetectionAnalysis, analyze_detections
from .evaluated_runs import REPLICATES, evaluate_folders
from .fairness import Difference, SharedStart, config_differences, shared_start
from .loss_balance import Balances, balances
from .loss_views import LossViews, loss_views
from .paired import Compared
from .pilot import runs_of_arms, spread_of_differences
from .power import Recommendation, recommend_seeds
from .problem import Problem, ProblemKind
from .progress import EndOfTraining, end_of_training
from .provenance import Provenance, provenance
from .recipe import Ingredient, recipe
from .scores import AVERAGES, Standing, Value, average_precision, standing
from .size_differences import size_differences
from .test_sets import TestSet, test_sets
from .training import Cost, Curve, cost, curves
from .tuning import Tuned, tune
from .uncertainty import Uncertainty, uncertainties
from .unusual import Unusual, unusual_values

EFFECTS = (0.5, 1.0, 2.0)
"""Differences of AP, percent, for which the report recommends a number of seeds."""

# Differs between runs by construction
_NOT_COMPARED = ("SEED",)


@dataclass(frozen=True)
class RunRow:
    """One run in any state; see :class:`~focal_plugin.compare.runs.status.Status`."""

    id: str
    arm: str
    seed: int
    role: str
    setting: Setting
    state: str
    reason: str | None
    exit_code: int | None
    log_tail: tuple[str, ...]
    restarts: int
    iterations: int
    iterations_done: int
    ap: dict[str, Value]
    iteration_s: float | None
    peak_memory_mib: float | None
    device: str | None
    threads: int | None


@dataclass(frozen=True)
class ResultFile:
    """
    File of detections that is judged without a run.

    Attributes:
        seed: its place among the files of its arm, from 1.
        file: path, as the user gave it.
        detections: number of entries.
        ap: AP, percent.
    """

    arm: str
    seed: int
    file: str
    sha256: str
    detections: int
    ap: Value


@dataclass(frozen=True)
class StartOfArm:
    """
    Initial state that the runs of an arm share with those of the reference.

    Attributes:
        seeds: number of seeds for which both recorded their start.
        same_weights, same_data: number of these seeds with equal weights and equal data.
        tensors: number of compared tensors at the first seed.
        batches: number of compared batches at the first seed.
        example: the first seed at which something differs, else the first seed.
    """

    seeds: int
    same_weights: int
    same_data: int
    tensors: int
    batches: int
    example: SharedStart


@dataclass(frozen=True)
class Fairness:
    """
    Differences between arms other than the loss.

    Attributes:
        configured: arms with a run that left a config.
        differences: config keys in which these arms differ.
        starts: arm -> initial state that it shares with the reference.
    """

    configured: tuple[str, ...]
    differences: tuple[Difference, ...]
    starts: dict[str, StartOfArm]


@dataclass(frozen=True)
class Tuning:
    """
    Tuning of learning rates and loss weights.

    Attributes:
        iterations: total iterations of the trial runs.
        grid: settings and seeds of the trials.
        arms: arm -> result of its trials.
    """

    iterations: int
    grid: Grid
    arms: dict[str, Tuned]


@dataclass(frozen=True)
class Summary:
    """
    All numbers of a report.

    Attributes:
        planned_reference: reference of the plan; another one was chosen for this report.
        looks: when the results are judged.
        margin: largest difference in AP that does not matter, percent; None without one.
        shown: all arms: the reference, then the others by the size of their difference to it.
        states: one of :data:`~focal_plugin.compare.runs.status.STATES` -> number of runs.
        problems: damaged files of the comparison and of its runs.
        red: sentences of the audit about what no training mends; () if there is no audit.
        recipe: what the runs were made of; () if none has started.
        equal: all arms at the settings of their configs.
        best: each arm at its best setting; None without tuning.
        class_differences: differences by class; None if nothing could be evaluated.
        sizes: arm -> size, or AR -> its average, compared with the reference.
        test_sets: every test set if there are several; other attributes are about the first.
        curves: arm -> logged key -> curve.
        ends: arm -> rise of AP at the end of training; None without evaluations there.
        slow: arm -> runs that took longer than its others.
        load: load of the machines as the runs began; None if it is not recorded.
        spread_of_differences: standard deviation of the differences between seeds, AP in percent,
            pooled over the arms; None if no arm has two seeds.
        uncertainties: seeds, images and both, of every arm with a difference.
        unusual: arms whose differences to the reference have outliers or are skewed.
        recommendations: one per entry of :data:`EFFECTS`; () if the spread is None.
        files: judged result files; () for runs. Then there are no runs, and nothing that only
            training leaves.
    """

    name: str
    reference: str
    planned_reference: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    looks: Design
    margin: float | None
    shown: tuple[str, ...]
    iterations: tuple[int, ...]
    states: dict[str, int]
    runs: tuple[RunRow, ...]
    problems: tuple[Problem, ...]
    red: tuple[str, ...]
    recipe: tuple[Ingredient, ...]
    equal: Standing
    best: Standing | None
    tuning: Tuning | None
    detections: DetectionAnalysis
    class_differences: ClassDifferences | None
    sizes: dict[str, dict[str, Compared]]
    test_sets: tuple[TestSet, ...]
    curves: dict[str, dict[str, Curve]]
    ends: dict[str, EndOfTraining | None]
    costs: dict[str, Cost]
    slow: dict[str, tuple[SlowRun, ...]]
    load: Load | None
    losses: LossViews
    balances: Balances
    fairness: Fairness
    provenance: Provenance
    spread_of_differences: float | None
    uncertainties: tuple[Uncertainty, ...]
    unusual: tuple[Unusual, ...]
    recommendations: tuple[Recommendation, ...]
    files: tuple[ResultFile, ...] = ()

    @property
    def trained(self) -> bool:
        """True for runs of a comparison; False for result files, of which nothing else is known."""
        return not self.files

    @property
    def complete(self) -> bool:
        """True if all runs are done."""
        return self.states["done"] == sum(self.states.values())

    @property
    def has_results(self) -> bool:
        """True if any run is done."""
        return self.states["done"] > 0


def summarize(
    folder: Path, *, replicates: int = REPLICATES, reference: str | None = None
) -> Summary:
    """
    Return the summary of a comparison, finished or not.

    Args:
        folder: folder with `comparison.json`.
        replicates: resamples of the images for each arm.
        reference: arm that the others are compared with, instead of that of the plan.

    Raises:
        FileNotFoundError: the folder contains no comparison.
        KeyError: ``reference`` is not an arm.
    """
    planned = Comparison.read(folder)
    comparison = planned if reference is None else planned.with_reference(reference)
    folders = read_run_folders(comparison, folder)
    by_arm = runs_of_arms(comparison, folders)
    equal = standing(comparison, by_arm)
    shown = most_different(equal, comparison.reference)
    spread = spread_of_differences(equal)
    tuned = tune(comparison, folders)
    red, problems = _audit(planned, folder)
    evaluated = evaluate_folders(by_arm, replicates=replicates)
    detections = analyze_detections(evaluated, comparison.reference, shown)
    return Summary(
        name=comparison.name,
        reference=comparison.reference,
        planned_reference=planned.reference,
        arms=comparison.arms,
        seeds=comparison.seeds,
        looks=comparison.looks,
        margin=comparison.margin,
        shown=shown,
        iterations=tuple(sorted({run.iterations for run in comparison.runs})),
        states={state: sum(r.state == state for r in folders) for state in STATES},
        runs=tuple(map(_run_row, folders)),
        problems=(
            *problems,
            *(
                Problem(ProblemKind.FILE_DAMAGED, (folder.run.name,), damage)
                for folder in folders
                for damage in folder.damage
            ),
        ),
        red=red,
        recipe=recipe(by_arm),
        equal=equal,
        best=_at_best(comparison, folders, tuned),
        tuning=_tuning(comparison, tuned),
        detections=detections,
        class_differences=class_differences(detections, equal, comparison.reference),
        sizes=size_differences(detections, equal, comparison.reference),
        test_sets=test_sets(comparison, by_arm),
        curves={arm: curves(by_arm[arm]) for arm in comparison.arms},
        ends={arm: end_of_training(by_arm[arm]) for arm in comparison.arms},
        costs={arm: cost(by_arm[arm]) for arm in comparison.arms},
        slow={arm: slow_runs(by_arm[arm]) for arm in comparison.arms},
        load=load(folders),
        losses=loss_views(comparison, by_arm),
        balances=balances(comparison, by_arm),
        fairness=_fairness(comparison, by_arm),
        provenance=provenance(folders),
        spread_of_differences=spread,
        uncertainties=uncertainties(equal, detections.images_of_arms, comparison.reference),
        unusual=unusual_arms(equal),
        recommendations=recommendations(spread, len(comparison.arms) - 1),
    )


def _audit(comparison: Comparison, folder: Path) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    """Return the red sentences of the audit, and the damage of its file."""
    try:
        audit = AuditRecord.read(folder, comparison)
    except DamagedFileError as error:
        return (), (Problem(ProblemKind.AUDIT_DAMAGED, detail=str(error)),)
    return (audit.red if audit else ()), ()


def _at_best(
    comparison: Comparison, folders: list[RunFolder], tuned: Mapping[str, Tuned]
) -> Standing | None:
    if not tuned:
        return None
    best = {arm: of_arm.best for arm, of_arm in tuned.items()}
    equal, again = (runs_of_arms(comparison, folders, role) for role in ("equal", "best"))
    by_arm = {arm: equal[arm] if best[arm] == EQUAL else again[arm] for arm in comparison.arms}
    # A trial that finished after the best runs were planned may change the best setting
    planned = {arm: {r.run.setting for r in by_arm[arm]} for arm in comparison.arms}
    decided = {arm: chosen if planned[arm] == {chosen} else None for arm, chosen in best.items()}
    return standing(comparison, by_arm, role="best", settings=decided)


def _tuning(comparison: Comparison, tuned: dict[str, Tuned]) -> Tuning | None:
    if comparison.grid is None:
        return None
    return Tuning(
        iterations=sum(run.iterations for run in comparison.of_role("tuning")),
        grid=comparison.grid,
        arms=tuned,
    )


def _run_row(folder: RunFolder) -> RunRow:
    run, status, result, environment = folder.run, folder.status, folder.result, folder.environment
    failed = folder.state == "failed"
    done = [line["iteration"] + 1 for line in folder.metrics]
    return RunRow(
        id=run.id,
        arm=run.arm,
        seed=run.seed,
        role=run.role,
        setting=run.setting,
        state=folder.state,
        reason=status.reason if failed else None,
        exit_code=status.exit_code if failed else None,
        log_tail=status.log_tail if failed else (),
        restarts=status.restarts,
        iterations=run.iterations,
        iterations_done=min(max(done, default=0), run.iterations),
        ap={} if result is None else {m: average_precision(folder, m) for m in AVERAGES},
        iteration_s=None if result is None else result.iteration_s,
        peak_memory_mib=None if result is None else result.peak_memory_mib,
        device=environment.device if environment else None,
        threads=environment.threads if environment else None,
    )


def most_different(equal: Standing, reference: str) -> tuple[str, ...]:
    """Return all arms: the reference, then the others by the size of their difference to it."""

    def size(arm: str) -> float:
        verdict = equal.verdict(arm)
        return abs(verdict.difference.mean) if verdict and verdict.difference else -1.0

    others = [scores.arm for scores in equal.arms if scores.arm != reference]
    return (reference, *sorted(others, key=lambda arm: -size(arm)))


def _fairness(comparison: Comparison, by_arm: Mapping[str, list[RunFolder]]) -> Fairness:
    configs = {}
    for arm in comparison.arms:
        config = next((r.config for r in by_arm[arm] if r.config is not None), None)
        if config is not None:
            configs[arm] = config
    differences = tuple(d for d in config_differences(configs) if d.key not in _NOT_COMPARED)
    return Fairness(tuple(configs), differences, _starts(comparison, by_arm))


def _starts(comparison: Comparison, by_arm: Mapping[str, list[RunFolder]]) -> dict[str, StartOfArm]:
    shared: dict[str, list[SharedStart]] = {}
    for seed in comparison.seeds:
        of_seed = [r for arm in comparison.arms for r in by_arm[arm] if r.run.seed == seed]
        starts = {r.run.arm: r.start for r in of_seed if r.start is not None}
        for arm, start in shared_start(starts, comparison.reference).items():
            shared.setdefault(arm, []).append(start)
    found = {}
    for arm, of_arm in shared.items():
        first = next((s for s in of_arm if not (s.same_weights and s.same_data)), of_arm[0])
        found[arm] = StartOfArm(
            seeds=len(of_arm),
            same_weights=sum(s.same_weights for s in of_arm),
            same_data=sum(s.same_data for s in of_arm),
            tensors=of_arm[0].equal + len(of_arm[0].other_values),
            batches=of_arm[0].batches,
            example=first,
        )
    return found


def unusual_arms(equal: Standing) -> tuple[Unusual, ...]:
    """Return the arms whose differences to the reference have outliers or are skewed."""
    found = [(v.arm, v.difference) for v in equal.verdicts if v.difference is not None]
    return tuple(filter(None, (unusual_values(arm, d.by_seed) for arm, d in found)))


def recommendations(spread: float | None, comparisons: int) -> tuple[Recommendation, ...]:
    """Return the number of seeds for each of :data:`EFFECTS`; () if the spread is None."""
    if spread is None:
        return ()
    return tuple(recommend_seeds(spread, effect, comparisons=comparisons) for effect in EFFECTS)
