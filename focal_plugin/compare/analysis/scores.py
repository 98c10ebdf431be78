"""The scores of each arm over its seeds, and the verdicts: what is known of a comparison so far."""

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
Why there is no number, which is never 0 or NaN: the run detected nothing at all; the data has no
object of this size or class; nobody has looked.
"""

Value = float | str
"""A number, or one of :data:`NO_VALUE`."""


@dataclass(frozen=True)
class Spread:
    """
    One quantity of one arm.

    Attributes:
        by_seed: of the runs that are done.
        mean: of the numbers among them; None if there is none.
        std: between the seeds, ddof 1; None for fewer than two.
        n: how many numbers.
        state: one of :data:`NO_VALUE` if there is no number, else None.
    """

    by_seed: dict[int, Value]
    mean: float | None
    std: float | None
    n: int
    state: str | None

    @classmethod
    def of(cls, by_seed: Mapping[int, Value]) -> Spread:
        numbers = [value for value in by_seed.values() if not isinstance(value, str)]
        states = [value for value in by_seed.values() if isinstance(value, str)]
        found = describe(numbers)
        state = None if numbers else states[0] if states else NOT_EVALUATED
        return cls(dict(by_seed), found.mean, found.std, found.n, state)

    @property
    def numbers(self) -> dict[int, float]:
        return {seed: v for seed, v in self.by_seed.items() if not isinstance(v, str)}

    @property
    def without(self) -> int:
        """Of how many of the runs that are done there is no number."""
        return len(self.by_seed) - self.n


@dataclass(frozen=True)
class ArmScores:
    """
    An arm's runs in one :class:`Standing`.

    Attributes:
        lr_factor: what its learning rate was multiplied by; None as long as that is not decided.
        states: of its runs, one of :data:`~..status.STATES` -> how many.
        metrics: "AP", "AP50", ... -> percent.
    """

    arm: str
    lr_factor: float | None
    states: dict[str, int]
    metrics: dict[str, Spread]

    @property
    def planned(self) -> int:
        return sum(self.states.values())

    @property
    def empty(self) -> int:
        """How many runs are done and detected nothing at all."""
        return list(self.metrics["AP"].by_seed.values()).count(NO_PREDICTIONS)

    @property
    def judged(self) -> dict[int, float]:
        """
        AP as verdicts are given on it: a run that detected nothing has found nothing, an AP of 0,
        and to leave it out would flatter its arm.
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
    All arms by the runs of one role.

    Attributes:
        role: "equal": at the learning rate of the spec; "best": each at the best of those tried.
        verdicts: of the arms but the reference, in the order of the spec.
    """

    role: str
    arms: tuple[ArmScores, ...]
    verdicts: tuple[Verdict, ...]

    def arm(self, name: str) -> ArmScores:
        return next(scores for scores in self.arms if scores.arm == name)

    def verdict(self, arm: str) -> Verdict | None:
        """None for the reference."""
        return next((verdict for verdict in self.verdicts if verdict.arm == arm), None)


def standing(
    comparison: Comparison,
    folders: Mapping[str, list[RunFolder]],
    *,
    role: str = "equal",
    lr_factors: Mapping[str, float | None] | None = None,
) -> Standing:
    """
    Args:
        folders: arm -> its runs, one a seed.
        lr_factors: arm -> that of its runs; None: 1 for all.
    """
    factors = dict.fromkeys(comparison.arms, 1.0) if lr_factors is None else lr_factors
    arms = tuple(_arm_scores(arm, folders[arm], factors[arm]) for arm in comparison.arms)
    return Standing(role, arms, _verdicts(arms, comparison.reference))


def spread(folders: Iterable[RunFolder], value: Callable[[RunFolder], Value]) -> Spread:
    """A quantity of the runs that are done."""
    done = [folder for folder in folders if folder.result is not None]
    return Spread.of({folder.run.seed: value(folder) for folder in done})


def average_precision(folder: RunFolder, metric: str) -> Value:
    """What Detectron2's evaluator said, percent, of a run that is done."""
    value = folder.finished.ap.get(metric)
    if value is not None:
        return value
    if folder.finished.ap["AP"] is not None:
        return NO_GROUND_TRUTH
    return NO_PREDICTIONS if folder.detected_nothing else NOT_EVALUATED


def _arm_scores(arm: str, folders: list[RunFolder], lr_factor: float | None) -> ArmScores:
    states = {state: sum(r.state == state for r in folders) for state in STATES}
    metrics = {
        metric: spread(folders, functools.partial(average_precision, metric=metric))
        for metric in AVERAGES
    }
    return ArmScores(arm, lr_factor, states, metrics)


def _verdicts(arms: tuple[ArmScores, ...], reference: str) -> tuple[Verdict, ...]:
    """
    An arm with a flaw, or against a reference with one, keeps its place in Holm's correction (its
    runs are planned) but gets no p: what failed may not be left out of a mean without changing it,
    and a test of what has come so far, made again and again, finds something sooner or later.
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
