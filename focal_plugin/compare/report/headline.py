"""Headline of a report: the answer in one or two sentences, from the verdicts alone."""

from __future__ import annotations

import math

from ...pages.text import are, count_text, listed, plain
from ..analysis.power import recommend_seeds
from ..analysis.scores import Standing
from ..analysis.statistics import PairedDifference
from ..analysis.summary import Summary
from ..analysis.verdicts import Verdict
from ..plan.design import FEWEST_SEEDS
from .precision import difference_text
from .sentences import flaw_text
from .tuning_section import at_best, at_equal

Found = list[tuple[Verdict, PairedDifference]]


def headlines(summary: Summary) -> list[str]:
    """Return the answer at the settings of the configs, then that at the best ones if tuned."""
    equal = headline(summary, summary.equal)
    if summary.best is None:
        return [equal]
    best = headline(summary, summary.best)
    return [f"{at_equal(summary)}: {equal}", f"{at_best(summary)}: {best}"]


def headline(summary: Summary, standing: Standing) -> str:
    """
    Return the answer of a standing: what is decided, else which arm is best so far.

    "Above" and "below" stand only for the verdicts higher and lower. Without these, an arm is "best
    so far", with its difference, the seeds that agree, and what a verdict takes.
    """
    reference = plain(summary.reference)
    if not standing.verdicts:
        return "There is only one arm, so there is nothing to compare."
    found = [(v, v.difference) for v in standing.verdicts if v.difference is not None]
    if not found:
        return f"No arm has a finished seed in common with {reference} yet."
    found.sort(key=lambda pair: -pair[1].mean)
    groups: dict[str, Found] = {}
    for verdict, difference in found:
        groups.setdefault(verdict.decision, []).append((verdict, difference))
    higher, lower, undecided = (groups.pop(d, []) for d in ("higher", "lower", "undecided"))
    parts = [
        f"{_named(group)} {are(['' for _ in group])} {where} {reference}"
        for group, where in ((higher, "above"), (lower[::-1], "below"))
        if group
    ]
    for decision, words in (("equivalent", "equivalent to"), ("not worse", "not worse than")):
        if group := groups.get(decision):
            margin = f"within {group[0][0].margin:g} AP"
            parts.append(f"{_named(group)} {are(['' for _ in group])} {words} {reference} {margin}")
    if undecided:
        best = f"undecided: {_named(undecided)}" if parts else _best_so_far(undecided, reference)
        parts += [best, _to_a_verdict(summary, *undecided[0])]
    lost = [plain(v.arm) for v in standing.verdicts if v.difference is None]
    if lost and not _unfinished(summary):
        parts.append(f"{listed(lost)} left no AP")
    return f"{'; '.join(parts)}."


def _named(group: Found) -> str:
    """Return `FL (+5.1 AP) and GHM (+2.0 AP)`."""
    return listed([f"{plain(v.arm)} ({difference_text(v)} AP)" for v, _ in group])


def _best_so_far(undecided: Found, reference: str) -> str:
    """Return the arm, or the reference, with the highest mean."""
    verdict, difference = undecided[0]
    arm, size, seeds = plain(verdict.arm), difference_text(verdict), _agreeing(difference)
    if difference.mean > 0:
        return f"{arm} is best so far: {size} AP over {reference} {seeds}"
    return f"{reference} is best so far: {arm} comes closest, with {size} AP {seeds}"


def _agreeing(difference: PairedDifference) -> str:
    """Return in how many seeds the difference has the sign of its mean."""
    same = sum(d * difference.mean > 0 for d in difference.differences)
    if difference.n == 1:
        return "in one seed"
    if same == difference.n:
        return "in both seeds" if same == 2 else f"in all {same} seeds"
    return f"on average of {difference.n} seeds, {same} of which agree"


def _to_a_verdict(summary: Summary, verdict: Verdict, difference: PairedDifference) -> str:
    """Return what a verdict on an arm waits for, or why it will not come."""
    if left := _unfinished(summary):
        return f"{count_text(left, 'run')} {are([''] * left)} not finished"
    if verdict.out_of_reach is not None:
        return f"a difference of {verdict.out_of_reach:g} AP is out of reach"
    if verdict.flaw is not None:
        return f"no verdict, because {flaw_text(verdict.flaw, plain(summary.reference))}"
    more = _more_seeds(summary, difference)
    if more is None:
        return "too close for a verdict"
    if difference.std is None:
        return f"a verdict takes at least {count_text(more, 'more seed')}"
    if difference.n >= FEWEST_SEEDS:  # further seeds would be beyond the plan
        seeds = difference.n + more
        return f"a new plan of about {seeds} seeds decides if the difference has this size"
    decide = "decides" if more == 1 else "decide"
    return f"about {count_text(more, 'more seed')} {decide} if the difference has this size"


def _unfinished(summary: Summary) -> int:
    return summary.states["pending"] + summary.states["running"]


def _more_seeds(summary: Summary, difference: PairedDifference) -> int | None:
    """
    Return the seeds that a verdict takes beyond those that are there; None if no number helps.

    It is the number at which a difference of this size is found in 8 of 10 comparisons. The spread
    is that of the verdict. With one seed, it is that of the other arms. If they do not know it
    either, the number is the fewest that can decide.
    """
    spread = summary.spread_of_differences
    if difference.error is not None:
        spread = difference.error * math.sqrt(difference.n)
    if not spread:
        return max(FEWEST_SEEDS - difference.n, 1)
    size = abs(difference.mean)
    if not size or not math.isfinite(size):
        return None
    needed = recommend_seeds(spread, size, comparisons=len(summary.arms) - 1).seeds
    return None if needed is None else max(needed - difference.n, 1)
