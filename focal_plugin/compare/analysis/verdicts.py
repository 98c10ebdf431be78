"""Verdicts on the arms of a comparison: which ones differ from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np

from ..plan.design import FEWEST_SEEDS, Design
from .anytime import anytime_p
from .procedure import Outcome, judge
from .statistics import (
    ALPHA,
    PairedDifference,
    check_finite,
    holm,
    joint_sign_flip_p,
    paired_difference,
)

DECISIONS = ("higher", "lower", "equivalent", "not worse", "undecided")


class FlawKind(Enum):
    """Reasons why an arm gets no verdict."""

    NOT_PLANNED = auto()
    NO_AP = auto()
    NONE_DONE = auto()
    UNFINISHED = auto()


@dataclass(frozen=True)
class Flaw:
    """
    Reason why an arm gets no verdict.

    Attributes:
        runs: number of runs that the reason applies to.
        planned: number of runs of the arm.
        of_reference: True if the runs are those of the reference.
    """

    kind: FlawKind
    runs: int
    planned: int
    of_reference: bool = False


@dataclass(frozen=True)
class WorstCase:
    """
    Verdict if every failed run had an AP of 0.

    Attributes:
        failed: number of failed runs, of the arm and of the reference.
        mean: mean difference.
        decision: one of :data:`DECISIONS`.
    """

    failed: int
    mean: float
    decision: str


@dataclass(frozen=True)
class Verdict:
    """
    Verdict on one arm against the reference.

    Attributes:
        arm: its name.
        decision: one of :data:`DECISIONS`, from the arm's side.
        difference: None if the two have no seed in common. Its interval and its p-value use the
            variance that is shrunk towards that of all arms; they are not adjusted.
        p: p-value over all looks, after Holm over all arms; None if nothing can be decided.
        sign_flip_p: p-value of the sign-flip test of all arms at once; None without a difference.
        p_equivalent: adjusted p-value of "the difference is within the margin"; None without one.
        p_not_worse: the same for "the arm is less than the margin below the reference".
        look: number of seeds at the look of the verdict.
        stopped: True if the arm needs no further seeds.
        out_of_reach: planned effect that the arm cannot reach, AP in percent; None otherwise.
        margin: largest difference that does not matter, AP in percent; None without one.
        unplanned: number of seeds beyond the plan. If there are any, ``p`` is anytime-valid.
        worst_case: verdict if failed runs had an AP of 0; None without failed runs.
        flaw: reason why the verdict is withheld, or None.
    """

    arm: str
    decision: str
    difference: PairedDifference | None
    p: float | None
    sign_flip_p: float | None = None
    p_equivalent: float | None = None
    p_not_worse: float | None = None
    look: int = 0
    stopped: bool = False
    out_of_reach: float | None = None
    margin: float | None = None
    unplanned: int = 0
    worst_case: WorstCase | None = None
    flaw: Flaw | None = None


def verdicts(
    results: Mapping[str, Mapping[int, float]],
    reference: str,
    *,
    design: Design | None = None,
    looks: int | None = None,
    seeds: Sequence[int] | None = None,
    margin: float | None = None,
    alpha: float = ALPHA,
) -> list[Verdict]:
    """
    Compare every other arm with the reference, by the procedure of :func:`.procedure.judge`.

    An arm is "higher" or "lower" if its p-value is <= ``alpha``. Otherwise, with a margin, it is
    "equivalent" or "not worse" if the one-sided tests say so. Below
    :data:`~focal_plugin.compare.plan.design.FEWEST_SEEDS` seeds it is "undecided", whatever its
    p-value.

    Seeds beyond the design were added after a look at the results. Then only the anytime-valid test
    counts (:func:`.anytime.anytime_p`), and there is no equivalence.

    Args:
        results: arm -> seed -> value, percent, of the finished runs. A seed that one side lacks is
            left out of the pairs.
        reference: one of the arms.
        design: planned numbers of seeds; default: all seeds that occur, judged once.
        looks: number of looks of the design to take; default: all.
        seeds: all seeds in their order; default: as they occur in ``results``.
        margin: largest difference that does not matter, AP in percent.
        alpha: probability that any arm is called different if none differs from the reference.

    Returns:
        One verdict per arm, in the order of ``results``.

    Raises:
        KeyError: the reference is not one of the arms.
        ValueError: a value is None, NaN or infinite.
    """
    if reference not in results:
        raise KeyError(f"the reference {reference!r} is not one of {', '.join(results)}")
    for values in results.values():
        check_finite(values)
    arms = [arm for arm in results if arm != reference]
    if not arms:
        return []
    if seeds is None:
        seeds = tuple(dict.fromkeys(seed for values in results.values() for seed in values))
    design = design or Design((max(2, len(seeds)),))
    matrix = _differences(results, arms, reference, seeds)
    unplanned = [int(np.isfinite(row[design.last :]).sum()) for row in matrix]
    if any(unplanned):
        return _beyond_the_plan(results, reference, arms, seeds, matrix, unplanned, alpha)
    found = judge(matrix, design, looks=looks, margin=margin, alpha=alpha)
    made = []
    for i, arm in enumerate(arms):
        count = design.looks[found.look[i]]
        judged = seeds[:count]
        pair = _pair(results[arm], results[reference], judged, alpha)
        enough = found.n[i] >= FEWEST_SEEDS
        if pair is not None and pair.n > 1:
            pair = pair.with_error(float(found.error[i]), float(found.freedom[i]), alpha)
        made.append(
            Verdict(
                arm=arm,
                decision=_decide(found, i, margin, alpha),
                difference=pair,
                p=float(found.p[i]) if enough else None,
                p_equivalent=float(found.p_equivalent[i]) if enough and margin else None,
                p_not_worse=float(found.p_not_worse[i]) if enough and margin else None,
                look=count,
                stopped=bool(found.stopped[i]),
                out_of_reach=design.effect if found.stopped[i] and found.p[i] > alpha else None,
                margin=margin,
            )
        )
    return _with_sign_flips(made, matrix)


def _differences(
    results: Mapping[str, Mapping[int, float]],
    arms: Sequence[str],
    reference: str,
    seeds: Sequence[int],
) -> np.ndarray:
    """Return (arms, seeds) differences; NaN where one side has no value."""
    matrix = np.full((len(arms), len(seeds)), np.nan)
    place = {seed: column for column, seed in enumerate(seeds)}
    for row, arm in enumerate(arms):
        if results[arm].keys() & results[reference].keys():
            pair = paired_difference(results[arm], results[reference])
            for seed, difference in pair.by_seed.items():
                matrix[row, place[seed]] = difference
    return matrix


def _pair(
    arm: Mapping[int, float], reference: Mapping[int, float], seeds: Sequence[int], alpha: float
) -> PairedDifference | None:
    own = {seed: arm[seed] for seed in seeds if seed in arm}
    if not own.keys() & reference.keys():
        return None
    return paired_difference(own, reference, alpha=alpha)


def _decide(found: Outcome, i: int, margin: float | None, alpha: float) -> str:
    if found.n[i] < FEWEST_SEEDS:
        return "undecided"
    if found.p[i] <= alpha:
        return "higher" if found.mean[i] > 0 else "lower"
    if margin is not None and found.p_equivalent[i] <= alpha:
        return "equivalent"
    if margin is not None and found.p_not_worse[i] <= alpha:
        return "not worse"
    return "undecided"


def _with_sign_flips(made: Sequence[Verdict], matrix: np.ndarray) -> list[Verdict]:
    """Return the verdicts with the joint sign-flip test of the seeds that they are about."""
    judged = matrix.copy()
    for row, verdict in enumerate(made):
        judged[row, verdict.look :] = np.nan
    used = judged[:, : max(verdict.look for verdict in made)]
    flips = joint_sign_flip_p(used)
    return [
        verdict if verdict.difference is None else replace(verdict, sign_flip_p=float(p))
        for verdict, p in zip(made, flips, strict=True)
    ]


def _beyond_the_plan(
    results: Mapping[str, Mapping[int, float]],
    reference: str,
    arms: Sequence[str],
    seeds: Sequence[int],
    matrix: np.ndarray,
    unplanned: Sequence[int],
    alpha: float,
) -> list[Verdict]:
    """Return the verdicts of the anytime-valid test on all seeds."""
    known = [row[np.isfinite(row)] for row in matrix]
    p_values = holm([anytime_p(row) if len(row) >= FEWEST_SEEDS else None for row in known])
    made = []
    for arm, p, beyond in zip(arms, p_values, unplanned, strict=True):
        pair = _pair(results[arm], results[reference], seeds, alpha)
        decision = "undecided"
        if pair is not None and p is not None and p <= alpha:
            decision = "higher" if pair.mean > 0 else "lower"
        made.append(Verdict(arm, decision, pair, p, look=len(seeds), unplanned=beyond))
    return _with_sign_flips(made, matrix)
