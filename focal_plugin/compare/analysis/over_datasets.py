"""
Differences over several datasets, or over the folds of a cross-validation.

Shape shorthand:
    D: number of datasets
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from ..plan.design import FEWEST_SEEDS
from .scores import ArmScores, Standing
from .statistics import ALPHA, PairedDifference, holm, paired_difference
from .uncertainty import probability_of_improvement
from .verdicts import FlawKind, Verdict

FEWEST_DATASETS = 5
"""Datasets from which on ranks, and tests that generalize to other datasets, are shown."""
RESAMPLES = 2_000


@dataclass(frozen=True)
class Improvement:
    """
    Probability that a run of the arm has a higher AP than one of the reference on the same dataset.

    Attributes:
        mean: mean over the datasets.
        interval: 95% interval, from resampled runs of each dataset.
    """

    mean: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class OverDatasets:
    """
    Difference of one arm to the reference over several datasets or folds.

    Attributes:
        arm: its name.
        decision: one of :data:`~.verdicts.DECISIONS`, about the mean over these datasets.
        datasets: those on which arm and reference share a finished seed.
        difference: its differences are the means on each dataset, and its ``seeds`` their numbers.
            Its ``std`` is the spread between datasets. Its error is that of the mean over these
            datasets; of folds, that of other training sets of this size. None without a dataset.
        p: p-value of the mean, after Holm over all arms; None if nothing can be decided.
        p_equivalent: the same for "the difference is within the margin"; None without a margin.
        p_not_worse: the same for "the arm is less than the margin below the reference".
        ap: mean AP of the arm over these datasets, percent; None without a dataset.
        wins, losses: datasets on which its verdict is higher, or lower.
        ties: datasets with any other verdict.
        positive: datasets on which its mean difference is > 0.
        improvement: None without a dataset.
        signed_rank_p: p-value of Wilcoxon's signed-rank test, after Holm. It is about other
            datasets like these. None for folds and below :data:`FEWEST_DATASETS` datasets.
        without: left-out dataset -> decision, if it differs from ``decision``; {} for folds.
        waiting: datasets with unfinished runs of the arm or of the reference.
        left_out: datasets on which all runs have ended, but arm and reference cannot be compared.
    """

    arm: str
    decision: str
    datasets: tuple[str, ...]
    difference: PairedDifference | None
    p: float | None
    p_equivalent: float | None
    p_not_worse: float | None
    ap: float | None
    wins: int
    ties: int
    losses: int
    positive: int
    improvement: Improvement | None
    signed_rank_p: float | None
    without: dict[str, str]
    waiting: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _OnDataset:
    """Arm on one dataset."""

    difference: PairedDifference
    verdict: Verdict
    own: ArmScores
    against: ArmScores


def over_datasets(
    standings: Mapping[str, Standing],
    reference: str,
    test_ratios: Mapping[str, float] | None = None,
    margin: float | None = None,
) -> tuple[OverDatasets, ...]:
    """
    Compare every arm with the reference over all datasets.

    The mean over these D datasets weighs them equally. Its error is that of the seeds, with the
    degrees of freedom of Welch and Satterthwaite:

        d = sum d_i / D,   error = sqrt(sum error_i**2) / D
        freedom = (sum error_i**2)**2 / sum(error_i**4 / freedom_i)

    It requires two seeds on each dataset, and four pairs of runs in all.

    The training sets of folds overlap, so the means of the folds are not independent. Their error
    is corrected for that, and there must be four of them (C. Nadeau, Y. Bengio, Inference for the
    Generalization Error, 2003, section 3):

        error = sqrt(1 / D + test images / training images) std(d_i),   freedom = D - 1

    A dataset without a finished pair of runs is left out. While runs are unfinished, there is no
    p-value.

    Args:
        standings: dataset -> verdicts on it, of the same arms.
        reference: one of the arms.
        test_ratios: fold -> test images over training images; None if the datasets are no folds.
        margin: largest difference that does not matter, AP in percent.
    """
    first = next(iter(standings.values()))
    arms = [verdict.arm for verdict in first.verdicts]
    all_of = {arm: _on_datasets(standings, arm, reference) for arm in arms}
    waiting = {arm: _waiting(standings, arm, reference) for arm in arms}
    means = {arm: _mean_difference(all_of[arm], test_ratios) for arm in arms}
    tested = [
        None if waiting[arm] else _tested(all_of[arm], means[arm], test_ratios) for arm in arms
    ]
    p_values = holm([None if found is None else found.t_p for found in tested])
    outside = [_outside(found, margin) for found in tested]
    inside = holm([None if o is None else max(o) for o in outside])
    not_worse = holm([None if o is None else o[0] for o in outside])
    signed_ranks = holm([_signed_rank_p(means[arm], test_ratios) for arm in arms])
    made = []
    for i, arm in enumerate(arms):
        found = all_of[arm]
        places = Counter(_place(each.verdict) for each in found.values() if not each.verdict.flaw)
        made.append(
            OverDatasets(
                arm=arm,
                decision=_decision(means[arm], p_values[i], inside[i], not_worse[i]),
                datasets=tuple(found),
                difference=means[arm],
                p=p_values[i],
                p_equivalent=inside[i],
                p_not_worse=not_worse[i],
                ap=float(np.mean([_mean_ap(x.own) for x in found.values()])) if found else None,
                wins=places["higher"],
                ties=places["tie"],
                losses=places["lower"],
                positive=sum(each.difference.mean > 0 for each in found.values()),
                improvement=_improvement(list(found.values())),
                signed_rank_p=signed_ranks[i],
                without={},
                waiting=waiting[arm],
                left_out=tuple(n for n in standings if n not in found and n not in waiting[arm]),
            )
        )
    return tuple(made)


def with_left_out(
    found: Sequence[OverDatasets],
    standings: Mapping[str, Standing],
    reference: str,
    margin: float | None = None,
) -> tuple[OverDatasets, ...]:
    """
    Return the differences over datasets with the decisions that change if one is left out.

    A decision counts as changed only if the other datasets are enough for a verdict. With two
    datasets, the rest is a single one, which has a verdict of its own.
    """
    without: dict[str, dict[str, str]] = {each.arm: {} for each in found}
    for name in standings if len(standings) > 2 else ():
        rest = {other: standing for other, standing in standings.items() if other != name}
        for each, left in zip(found, over_datasets(rest, reference, margin=margin), strict=True):
            if left.p is not None and left.decision != each.decision:
                without[each.arm][name] = left.decision
    return tuple(replace(each, without=without[each.arm]) for each in found)


def _on_datasets(
    standings: Mapping[str, Standing], arm: str, reference: str
) -> dict[str, _OnDataset]:
    found = {}
    for name, standing in standings.items():
        verdict = standing.verdict(arm)
        if verdict is None or verdict.difference is None:
            continue
        if verdict.flaw is None or verdict.flaw.kind is FlawKind.UNFINISHED:
            found[name] = _OnDataset(
                verdict.difference, verdict, standing.arm(arm), standing.arm(reference)
            )
    return found


def _waiting(standings: Mapping[str, Standing], arm: str, reference: str) -> tuple[str, ...]:
    return tuple(
        name
        for name, standing in standings.items()
        if any(len(s.settled) < s.planned for s in map(standing.arm, (arm, reference)))
    )


def mean_over_datasets(differences: Sequence[PairedDifference]) -> PairedDifference:
    """
    Return the mean over datasets with the error of the seeds; see :func:`over_datasets`.

    Args:
        differences: at least one, each on one dataset. With a single seed anywhere, the error of
            the mean is not known.
    """
    mean = _of_means(differences)
    squares = [each.error**2 for each in differences if each.error is not None]
    if len(squares) < len(differences):
        return replace(mean, error=None, interval=None, t_p=None)
    total = sum(squares)
    parts = [s**2 / each.freedom for s, each in zip(squares, differences, strict=True)]
    freedom = total**2 / sum(parts) if total else sum(each.freedom for each in differences)
    return mean.with_error(math.sqrt(total) / len(differences), freedom)


def mean_over_folds(differences: Sequence[PairedDifference], ratio: float) -> PairedDifference:
    """
    Return the mean over folds with the corrected error; see :func:`over_datasets`.

    Args:
        differences: at least one, each on one fold.
        ratio: test images over training images of a fold, > 0.
    """
    mean = _of_means(differences)
    if mean.std is None:
        return mean
    error = math.sqrt(1 / len(differences) + ratio) * mean.std
    return mean.with_error(error, len(differences) - 1)


def _of_means(differences: Sequence[PairedDifference]) -> PairedDifference:
    means = {i: each.mean for i, each in enumerate(differences, start=1)}
    return paired_difference(means, dict.fromkeys(means, 0.0))


def _mean_difference(
    found: Mapping[str, _OnDataset], test_ratios: Mapping[str, float] | None
) -> PairedDifference | None:
    """Return the difference over the datasets or folds; None without one."""
    differences = [each.difference for each in found.values()]
    if not differences:
        return None
    if test_ratios is None:
        return mean_over_datasets(differences)
    return mean_over_folds(differences, float(np.mean([test_ratios[name] for name in found])))


def _tested(
    found: Mapping[str, _OnDataset],
    difference: PairedDifference | None,
    test_ratios: Mapping[str, float] | None,
) -> PairedDifference | None:
    """Return the difference if it is enough for a verdict."""
    if difference is None or difference.error is None:
        return None
    pairs = sum(each.difference.n for each in found.values())
    return difference if (pairs if test_ratios is None else len(found)) >= FEWEST_SEEDS else None


def _outside(difference: PairedDifference | None, margin: float | None) -> list[float] | None:
    """Return the p-values of "at least the margin below", and of "at least the margin above"."""
    if difference is None or difference.error is None or margin is None:
        return None
    distances = (margin + difference.mean, margin - difference.mean)
    if difference.error == 0:
        return [float(distance <= 0) for distance in distances]
    return [float(special.stdtr(difference.freedom, -x / difference.error)) for x in distances]


def _decision(
    difference: PairedDifference | None,
    p: float | None,
    p_equivalent: float | None,
    p_not_worse: float | None,
) -> str:
    if difference is None or p is None:
        return "undecided"
    if p <= ALPHA:
        return "higher" if difference.mean > 0 else "lower"
    if p_equivalent is not None and p_equivalent <= ALPHA:
        return "equivalent"
    return "not worse" if p_not_worse is not None and p_not_worse <= ALPHA else "undecided"


def _place(verdict: Verdict) -> str:
    return verdict.decision if verdict.decision in ("higher", "lower") else "tie"


def _mean_ap(scores: ArmScores) -> float:
    return float(np.mean(list(scores.judged.values())))


def _signed_rank_p(
    difference: PairedDifference | None, test_ratios: Mapping[str, float] | None
) -> float | None:
    """Return the p-value of Wilcoxon's test of the datasets' means; None if it is not shown."""
    if test_ratios is not None or difference is None or difference.n < FEWEST_DATASETS:
        return None
    if not any(difference.differences):
        return 1.0
    from scipy import stats  # a second, for which no other report should wait

    return float(stats.wilcoxon(difference.differences).pvalue)


def _improvement(found: Sequence[_OnDataset]) -> Improvement | None:
    """
    Return the probability of improvement, with a stratified bootstrap of the runs.

    Source: R. Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice,
    2021, section 4.3.
    """
    if not found:
        return None
    rng = np.random.default_rng(0)
    means, drawn = [], np.zeros(RESAMPLES)
    for each in found:
        own, against = (np.array(list(s.judged.values())) for s in (each.own, each.against))
        means.append(probability_of_improvement(own.tolist(), against.tolist()))
        wins = (own[:, None] > against) + 0.5 * (own[:, None] == against)
        rows = rng.integers(len(own), size=(RESAMPLES, len(own)))
        columns = rng.integers(len(against), size=(RESAMPLES, len(against)))
        drawn += wins[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2)) / len(found)
    low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2])
    return Improvement(float(np.mean(means)), (float(low), float(high)))
