"""Scores of each arm over its seeds, and the verdicts on them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ..plan.comparison import Comparison
from ..runs.result import AVERAGES
from ..runs.run_folder import RunFolder
from ..runs.status import STATES
from .statistics import (
    Flaw,
    FlawKind,
    PairedDifference,
    Verdict,
    describe,
    paired_difference,
    verdicts,
)

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
        lr_factor: factor of the learning rate; None until it is decided.
        states: one of :data:`~focal_plugin.compare.runs.status.STATES` -> number of runs.
        metrics: "AP", "AP50", ... -> percent.
    """

    arm: str
    lr_factor: float | None
    states: dict[str, int]
    metrics: dict[str, Spread]

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
    def flaw(self) -> Flaw | None:
        """Reason why the arm gets no verdict, or None."""
        failed, unfinished = self.states["failed"], self.planned - self.states["done"]
        unknown = self.metrics["AP"].without - self.empty
        if self.lr_factor is None:
            return Flaw(FlawKind.NOT_PLANNED, self.planned, self.planned)
        if failed:
            return Flaw(FlawKind.FAILED, failed, self.planned)
        if unknown:
            return Flaw(FlawKind.NO_AP, unknown, self.planned)
        if unfinished:
            kind = FlawKind.NONE_DONE if unfinished == self.planned else FlawKind.UNFINISHED
            return Flaw(kind, unfinished, self.planned)
        return None


@dataclass(frozen=True)
class Standing:
    """
    Scores and verdicts of all arms, from the runs of one role.

    Attributes:
        role: "equal" for the learning rate of the spec; "best" for the best one of each arm.
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
    lr_factors: Mapping[str, float | None] | None = None,
) -> Standing:
    """
    Return the scores and verdicts of all arms.

    Args:
        folders: arm -> its runs, one per seed.
        role: role of these runs.
        lr_factors: arm -> factor of its runs; None for a factor of 1 for all.
    """
    factors = dict.fromkeys(comparison.arms, 1.0) if lr_factors is None else lr_factors
    arms = tuple(_arm_scores(arm, folders[arm], factors[arm]) for arm in comparison.arms)
    return Standing(role, arms, verdicts_of_arms(arms, comparison.reference))


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


def _arm_scores(arm: str, folders: list[RunFolder], lr_factor: float | None) -> ArmScores:
    states = {state: sum(r.state == state for r in folders) for state in STATES}
    metrics = {
        metric: spread(folders, functools.partial(average_precision, metric=metric))
        for metric in AVERAGES
    }
    return ArmScores(arm, lr_factor, states, metrics)


def verdicts_of_arms(arms: tuple[ArmScores, ...], reference: str) -> tuple[Verdict, ...]:
    """
    Return the verdicts; an arm with a flaw, or with a flawed reference, gets no p-value.

    The arm keeps its place in Holm's correction, because its runs are planned. A mean without the
    failed runs would be biased. A test that is repeated on unfinished runs finds a difference
    sooner or later.
    """
    by_name = {scores.arm: scores for scores in arms}
    against = by_name.pop(reference)
    judged = {name: {} if scores.flaw else scores.judged for name, scores in by_name.items()}
    given = verdicts({reference: against.judged, **judged}, reference)
    found = []
    for verdict in given:
        scores = by_name[verdict.arm]
        flaw = scores.flaw or (against.flaw and replace(against.flaw, of_reference=True))
        if flaw is not None:
            verdict = Verdict(verdict.arm, "undecided", _so_far(scores, against), None, flaw)
        found.append(verdict)
    return tuple(found)


def _so_far(arm: ArmScores, reference: ArmScores) -> PairedDifference | None:
    values, others = arm.judged, reference.judged
    return paired_difference(values, others) if values.keys() & others.keys() else None
