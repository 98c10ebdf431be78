"""Sentences that hold for several arms, printed once."""

from __future__ import annotations

from collections.abc import Iterable

from ...pages.text import count_text, listed
from ..analysis.power import MAX_SEEDS
from ..analysis.scores import ArmScores, Standing
from ..analysis.summary import EFFECTS, Summary
from ..plan.design import POWER
from .precision import difference_text
from .sentences import flaw_text, too_few, verdict_sentence


def standing_lines(standing: Standing, reference: str) -> list[str]:
    """
    Return all verdicts in sentences.

    They say the same as :func:`~.sentences.standing_sentences`, which has one text per verdict. The
    reason why few seeds decide nothing, a flaw of several arms, and what an empty run counts as
    stand once here.
    """
    lines: list[str] = []
    reasons: dict[str, None] = {}
    flaws: dict[str, list[str]] = {}
    so_far: list[str] = []
    for verdict in standing.verdicts:
        if verdict.flaw is not None:
            flaws.setdefault(flaw_text(verdict.flaw, reference), []).append(verdict.arm)
            if verdict.difference is not None:
                seeds = count_text(verdict.difference.n, "seed")
                so_far.append(f"{verdict.arm} {difference_text(verdict)} AP ({seeds})")
            continue
        text = verdict_sentence(verdict, reference, arms=len(standing.verdicts))
        reason = too_few(verdict.difference.n) if verdict.difference else ""
        if reason and text.endswith(f" {reason}"):
            text = text.removesuffix(f" {reason}")
            reasons[reason] = None
        lines.append(text)
    lines += reasons
    for flaw, arms in flaws.items():
        whom = f"Each of {listed(arms)}" if len(arms) > 1 else arms[0]
        lines.append(f"{whom}: no verdict, because {flaw}.")
    if so_far:
        lines.append(f"So far, against {reference}: {'; '.join(so_far)}.")
    return [*lines, *_on_empty(standing.arms)]


def _on_empty(arms: Iterable[ArmScores]) -> list[str]:
    """Return how many runs detected nothing, and that each counts as an AP of 0."""
    counts = [f"{each.empty} of {each.planned} of {each.arm}" for each in arms if each.empty]
    if not counts:
        return []
    return [f"Runs that detected nothing count as an AP of 0: {listed(counts)}."]


def recommendation_lines(summary: Summary) -> list[str]:
    """Return how many seeds each of the effects takes, in one sentence."""
    if not summary.recommendations:
        return []
    found = zip(summary.recommendations, EFFECTS, strict=False)
    sizes = [
        f"{effect:g} AP: more than {MAX_SEEDS}" if r.seeds is None else f"{effect:g} AP: {r.seeds}"
        for r, effect in found
    ]
    comparisons = len(summary.arms) - 1
    against = f" with {comparisons} arms against one reference" if comparisons > 1 else ""
    return [
        f"Seeds that find a difference in {10 * POWER:g} of 10 comparisons{against}, by its size: "
        f"{', '.join(sizes)}."
    ]
