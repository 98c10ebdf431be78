"""Scores of each arm over its seeds, and the verdicts on them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ..plan.comparison import Comparison
from ..plan.setting import EQUAL, Setting
from ..runs.result import AVERAGES
from ..runs.run_folder import RunFolder
from ..runs.status import STATES
from .statistics import describe
from .verdicts import Flaw, FlawKind, Verdict, WorstCase, verdicts

NO_PREDICTIONS = "no predictions"
NO_GROUND_TRUTH = "no ground truth"
NOT_EVALUATED = "not evaluated"
NO_VALUE = (NO_PREDICTIONS, NO_GROUND_TRUTH, NOT_EVALUATED)
"""
Reasons for a missing number, which is never 0 or NaN: the run detected nothing, the data has no
object of this size or class, or the run was not evaluated.
"""

Value = float | str
"""Number, or one of :data:`NO_VALUE`."""


@dataclass(frozen=True)
class Spread:
    """
    Values of one quantity of one arm over its seeds.

    Attributes:
        by_seed: seed -> value, for the runs that are done.
        mean: mean of the numbers; None without numbers.
        std: standard deviation between the seeds, ddof 1; None for fewer than two numbers.
        n: count of the numbers.
        state: one of :data:`NO_VALUE` if there is no number, else None.
    """

    by_seed: dict[int, Value]
    mean: float | None
    std: float | None
    n: int
    state: str | None

    @classmethod
    def of(cls, by_seed: Mapping[int, Value]) -> Spread:
        """Return the spread of values."""
        numbers = [value for value in by_seed.values() if not isinstance(value, str)]
        states = [value for value in by_seed.values() if isinstance(value, str)]
        found = describe(numbers)
        state = None if numbers else states[0] if states else NOT_EVALUATED
        return cls(dict(by_seed), found.mean, found.std, found.n, state)

    @property
    def numbers(self) -> dict[int, float]:
        """Values that are numbers, by seed."""
        return {seed: v for seed, v in self.by_seed.items() if not isinstance(v, str)}

    @property
    def without(self) -> int:
        """Number of finished runs without a number."""
        return len(self.by_seed) - self.n


@dataclass(frozen=True)
class ArmScores:
    """
    Scores of the runs of one arm in one :class:`Standing`.

    Attributes:
        setting: learning rate and loss weight of its runs; None until it is decided.
        states: one of :data:`~focal_plugin.compare.runs.status.STATES` -> number of runs.
        metrics: "AP", "AP50", ... -> percent.
        failed: seeds of the failed runs.
    """

    arm: str
    setting: Setting | None
    states: dict[str, int]
    metrics: dict[str, Spread]
    failed: tuple[int, ...] = ()

    @property
    def planned(self) -> int:
        """Number of runs."""
        return sum(self.states.values())

    @property
    def empty(self) -> int:
        """Number of finished runs that detected nothing."""
        return list(self.metrics["AP"].by_seed.values()).count(NO_PREDICTIONS)

    @property
    def judged(self) -> dict[int, float]:
        """
        AP by seed as the verdicts use it.

        A run that detected nothing counts as an AP of 0, because leaving it out would favor its
        arm.
        """
        by_seed = self.metrics["AP"].by_seed
        found = {seed: 0.0 if v == NO_PREDICTIONS else v for seed, v in by_seed.items()}
        return {seed: v for seed, v in found.items() if not isinstance(v, str)}

    @property
    def settled(self) -> set[int]:
        """Seeds whose run is done or has failed."""
        return {*self.metrics["AP"].by_seed, *self.failed}

    @property
    def flaw(self) -> Flaw | None:
        """
        Reason why the arm gets no verdict after all of its runs, or None.

        A failed run is no reason: the verdict is about the seeds that both have.
        """
        unfinished = self.planned - len(self.settled)
        unknown = self.metrics["AP"].without - self.empty
        if self.setting is None:
            return Flaw(FlawKind.NOT_PLANNED, self.planned, self.planned)
        if unknown:
            return Flaw(FlawKind.NO_AP, unknown, self.planned)
        if not self.states["done"]:
            return Flaw(FlawKind.NONE_DONE, self.planned, self.planned)
        if unfinished:
            return Flaw(FlawKind.UNFINISHED, unfinished, self.planned)
        return None


@dataclass(frozen=True)
class Standing:
    """
    Scores and verdicts of all arms, from the runs of one role.

    Attributes:
        role: "equal" for the settings of the configs; "best" for the best one of each arm.
        verdicts: verdicts on all arms but the reference, in the order of the spec.
    """

    role: str
    arms: tuple[ArmScores, ...]
    verdicts: tuple[Verdict, ...]

    def arm(self, name: str) -> ArmScores:
        """Return the scores of an arm."""
        return next(scores for scores in self.arms if scores.arm == name)

    def verdict(self, arm: str) -> Verdict | None:
        """Return the verdict on an arm; None for the reference."""
        return next((verdict for verdict in self.verdicts if verdict.arm == arm), None)


def standing(
    comparison: Comparison,
    folders: Mapping[str, list[RunFolder]],
    *,
    role: str = "equal",
    settings: Mapping[str, Setting | None] | None = None,
) -> Standing:
    """
    Return the scores and verdicts of all arms.

    Args:
        folders: arm -> its runs, one per seed.
        role: role of these runs.
        settings: arm -> setting of its runs; None for those of the configs.
    """
    chosen = dict.fromkeys(comparison.arms, EQUAL) if settings is None else settings
    arms = tuple(_arm_scores(arm, folders[arm], chosen[arm]) for arm in comparison.arms)
    return Standing(role, arms, verdicts_of_arms(comparison, arms))


def open_arms(
    comparison: Comparison, folders: Mapping[str, list[RunFolder]]
) -> tuple[tuple[str, ...], int]:
    """
    Return the arms that need the seeds of the next look, and the number of seeds at that look.

    The reference is one of the arms, because all others are compared with it.

    Returns:
        () and 0 if every arm has stopped, or there is no further look.
    """
    arms = standing(comparison, folders).arms
    taken, going_on = _looks(comparison, arms)
    counts = comparison.looks.looks
    if not going_on or not 0 < taken < len(counts):
        return (), 0
    named = tuple(a for a in comparison.arms if a in going_on or a == comparison.reference)
    return named, counts[taken]


def spread(folders: Iterable[RunFolder], value: Callable[[RunFolder], Value]) -> Spread:
    """Return the spread of a quantity over the runs that are done."""
    done = [folder for folder in folders if folder.result is not None]
    return Spread.of({folder.run.seed: value(folder) for folder in done})


def average_precision(folder: RunFolder, metric: str, test_set: str | None = None) -> Value:
    """
    Return a metric of a finished run from Detectron2's evaluator, percent.

    Args:
        test_set: a further test set of the run. None: the first.
    """
    result = folder.finished
    found = result.ap if test_set is None else result.ap_of_others.get(test_set, {})
    value = found.get(metric)
    if value is not None:
        return value
    if found.get("AP") is not None:
        return NO_GROUND_TRUTH
    return NO_PREDICTIONS if folder.detected_nothing(test_set) else NOT_EVALUATED


def _arm_scores(arm: str, folders: list[RunFolder], setting: Setting | None) -> ArmScores:
    states = {state: sum(r.state == state for r in folders) for state in STATES}
    metrics = {
        metric: spread(folders, functools.partial(average_precision, metric=metric))
        for metric in AVERAGES
    }
    failed = tuple(r.run.seed for r in folders if r.state == "failed")
    return ArmScores(arm, setting, states, metrics, failed)


def verdicts_of_arms(comparison: Comparison, arms: tuple[ArmScores, ...]) -> tuple[Verdict, ...]:
    """
    Return the verdicts; an arm with a flaw, or with a flawed reference, gets no p-value.

    The arm keeps its place in Holm's correction, because its runs are planned. A test that is
    repeated on unfinished runs finds a difference sooner or later, so a verdict waits for all runs
    of its look.
    """
    by_name = {scores.arm: scores for scores in arms}
    against = by_name[comparison.reference]
    taken, _ = _looks(comparison, arms)
    waits = not (taken and comparison.looks.is_sequential)
    flaws = {name: _flaw(scores, against, waits=waits) for name, scores in by_name.items()}
    values = {name: {} if flaws[name] else scores.judged for name, scores in by_name.items()}
    values[comparison.reference] = against.judged
    worst = {name: {**dict.fromkeys(by_name[name].failed, 0.0), **v} for name, v in values.items()}
    so_far = _judge(comparison, {name: scores.judged for name, scores in by_name.items()}, taken)
    found = []
    for verdict, with_zeros, early in zip(
        _judge(comparison, values, taken), _judge(comparison, worst, taken), so_far, strict=True
    ):
        flaw = flaws[verdict.arm]
        if flaw is not None:
            verdict = Verdict(verdict.arm, "undecided", early.difference, None, flaw=flaw)
        else:
            judged = set(comparison.seeds[: verdict.look])
            failed = [*by_name[verdict.arm].failed, *against.failed]
            count = sum(seed in judged for seed in failed)
            if count and with_zeros.difference:
                case = WorstCase(count, with_zeros.difference.mean, with_zeros.decision)
                verdict = replace(verdict, worst_case=case)
        found.append(verdict)
    return tuple(found)


def _judge(
    comparison: Comparison, values: Mapping[str, Mapping[int, float]], looks: int
) -> list[Verdict]:
    return verdicts(
        values,
        comparison.reference,
        design=comparison.looks,
        looks=max(looks, 1),
        seeds=comparison.seeds,
        margin=comparison.margin,
    )


def _flaw(scores: ArmScores, against: ArmScores, *, waits: bool) -> Flaw | None:
    """Return the flaw of an arm or of the reference; unfinished runs are one if it waits."""
    for flaw, of_reference in ((scores.flaw, False), (against.flaw, True)):
        if flaw and (waits or flaw.kind is not FlawKind.UNFINISHED):
            return replace(flaw, of_reference=of_reference)
    return None


def _looks(comparison: Comparison, arms: tuple[ArmScores, ...]) -> tuple[int, set[str]]:
    """
    Return the number of looks whose runs are all settled, and the arms that are open after them.

    An arm that has stopped needs no further runs.
    """
    by_name = {scores.arm: scores for scores in arms}
    values = {name: scores.judged for name, scores in by_name.items()}
    going_on = {name for name in by_name if name != comparison.reference}
    taken = 0
    for look, count in enumerate(comparison.looks.looks, start=1):
        needed = set(comparison.seeds[:count])
        waiting = [by_name[name] for name in (*going_on, comparison.reference)]
        if not going_on or any(not needed <= scores.settled for scores in waiting):
            break
        taken = look
        if comparison.looks.is_sequential:
            found = _judge(comparison, values, look)
            going_on = {verdict.arm for verdict in found if not verdict.stopped}
    return taken, going_on
