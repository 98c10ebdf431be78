"""Sentences of a report, made from the numbers of the analysis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...pages.text import are, count_text, listed, p_text, plain, signed
from ..analysis.fairness import SharedStart
from ..analysis.power import MAX_SEEDS, Recommendation
from ..analysis.problem import Problem, ProblemKind
from ..analysis.provenance import Provenance
from ..analysis.scores import ArmScores, Standing
from ..analysis.statistics import ALPHA, PairedDifference
from ..analysis.summary import EFFECTS, StartOfArm, Summary
from ..analysis.training import LOSS_PREFIXES
from ..analysis.verdicts import Flaw, FlawKind, Verdict
from ..plan.design import FEWEST_SEEDS, POWER
from .precision import digits_in_words

NAMES_SHOWN = 5
FAIRNESS = "This chapter lists causes of a difference other than the loss."
AP_SOURCE = (
    "AP is from the evaluator of the runs. The numbers on classes, recall, errors and images are "
    "computed here from the same detections, by the rules of pycocotools."
)


def reference_note(summary: Summary) -> str:
    """Return that the reference is not that of the plan; "" if it is."""
    if summary.reference == summary.planned_reference:
        return ""
    return (
        f"The plan compares with {plain(summary.planned_reference)}. "
        f"{plain(summary.reference)} was chosen as the reference of this report, so its p-values "
        f"hold only if the choice did not depend on the results."
    )


def standing_sentences(standing: Standing, reference: str) -> list[str]:
    """Return one text per verdict, with its numbers or the reason why it is withheld."""
    against = standing.arm(reference)
    found = []
    for verdict in standing.verdicts:
        if verdict.flaw is None:
            text = verdict_sentence(verdict, reference, arms=len(standing.verdicts))
        else:
            text = _withheld(verdict, verdict.flaw, reference)
        empty = (_on_empty(scores) for scores in (standing.arm(verdict.arm), against))
        found.append(text + "".join(empty))
    return found


def verdict_sentence(
    verdict: Verdict, reference: str, *, arms: int = 1, alpha: float = ALPHA, metric: str = "AP"
) -> str:
    """
    Return a verdict in words, with its difference, interval and p-value.

    Args:
        verdict: a verdict that is not withheld.
        reference: name of the reference.
        arms: number of arms that Holm's correction covers.
        alpha: significance level of the verdict.
        metric: name of the values.
    """
    arm, difference, p = verdict.arm, verdict.difference, verdict.p
    if difference is None:
        return f"{arm} and {reference} have no finished seed in common, so they cannot be compared."
    digits = digits_in_words(verdict, difference)
    seen = _seen(arm, reference, difference, digits, metric)
    seeds = count_text(difference.n, "seed")
    remarks = "".join(_remarks(verdict, metric))
    if difference.interval is None:
        return f"{seen} ({seeds}).{remarks} {too_few(difference.n)}"
    low, high = difference.interval
    interval = f"{1 - alpha:.0%} interval {low:.{digits}f} to {high:.{digits}f}"
    if p is None:
        return f"{seen} ({interval}, {seeds}).{remarks} {too_few(difference.n)}"
    shown = p_text(p) if p < 0.0001 else f"= {p_text(p)}"
    tested = f"{seeds}, p {shown}" + (f" after Holm over {arms} arms" if arms > 1 else "")
    if verdict.decision == "undecided":
        text = f"{seen} ({tested}): {_undecided(low, high, digits)}."
    elif verdict.decision in {"higher", "lower"}:
        text = f"{seen} ({interval}, {tested})."
    else:
        text = f"{seen} ({interval}, {tested}): {_by_margin(verdict, reference, metric)}."
    return text + remarks


def _undecided(low: float, high: float, digits: int) -> str:
    """Return the interval; that of one arm may exclude 0 although its verdict is undecided."""
    within = f"undecided, within {signed(low, digits)} to {signed(high, digits)}"
    if low * high <= 0:
        return within
    return f"{within}. This interval is for one test; over all tests together it would hold 0"


def _by_margin(verdict: Verdict, reference: str, metric: str) -> str:
    """Return what the equivalence tests say."""
    if verdict.decision == "equivalent":
        p = f"p = {p_text(verdict.p_equivalent or 0.0)}"
        return f"equivalent, a difference below {verdict.margin:g} {metric} ({p})"
    p = f"p = {p_text(verdict.p_not_worse or 0.0)}"
    return f"not worse than {reference} by {verdict.margin:g} {metric} ({p})"


def _remarks(verdict: Verdict, metric: str) -> Iterator[str]:
    """Yield what else a reader of a verdict has to know, each with a space before it."""
    if verdict.decision in {"higher", "lower"} and (verdict.p_equivalent or 1.0) <= ALPHA:
        yield f" The difference is below the margin of {verdict.margin:g} {metric}."
    if verdict.out_of_reach is not None:
        yield (
            f" It stopped after {count_text(verdict.look, 'seed')}, because a difference of "
            f"{verdict.out_of_reach:g} {metric} is out of its reach."
        )
    if verdict.unplanned:
        yield (
            f" {count_text(verdict.unplanned, 'seed')} came after a look at the results, so p is "
            f"anytime-valid."
        )
    if verdict.worst_case is not None:
        worst = verdict.worst_case
        yield (
            f" {count_text(worst.failed, 'run')} failed; with an AP of 0 instead, the difference "
            f"is {signed(worst.mean)} {metric}: {worst.decision}."
        )


def flaw_text(flaw: Flaw, reference: str) -> str:
    """Return the reason why a verdict is withheld, as the end of a sentence."""
    whose, of = ("the", f" of the reference {reference}") if flaw.of_reference else ("its", "")
    count = f"{flaw.runs} of {whose} {flaw.planned} runs{of}"
    be = "is" if flaw.runs == 1 else "are"
    return {
        FlawKind.NOT_PLANNED: f"{whose} runs{of} at its best setting are not planned yet",
        FlawKind.NO_AP: f"{count} left no AP",
        FlawKind.NONE_DONE: f"none of {whose} runs{of} is done",
        FlawKind.UNFINISHED: f"{count} {be} still to come",
    }[flaw.kind]


def spread_lead(summary: Summary) -> str:
    """Return how much the differences to the reference vary between seeds."""
    if summary.spread_of_differences is None:
        return "Not known yet: no arm has two seeds in common with the reference."
    return (
        f"Between seeds, the differences to {summary.reference} have a standard deviation of "
        f"{summary.spread_of_differences:.2g} AP, pooled over the arms. This is an estimate, which "
        f"is rough with few seeds."
    )


def unusual_sentences(summary: Summary) -> list[str]:
    """Return which arms do not vary as the t test assumes."""
    found = []
    for unusual in summary.unusual:
        if unusual.outliers:
            seeds = listed([str(seed) for seed in unusual.outliers])
            found.append(
                f"The difference of {unusual.arm} has an outlier at seed {seeds}: look at this run "
                f"and at that of the reference before you trust the verdict."
            )
        if unusual.skewness is not None:
            found.append(
                f"The difference of {unusual.arm} is skewed between seeds "
                f"({unusual.skewness:+.1f}). A t test then finds false differences more often than "
                f"5 times in 100."
            )
    return found


def training_lead(summary: Summary) -> str:
    """Return a note if there are no curves."""
    has_losses = any(key.startswith(LOSS_PREFIXES) for c in summary.curves.values() for key in c)
    return "" if has_losses else "No run has logged a loss yet."


def anchors_lead(summary: Summary) -> str:
    """Return a note if there are no snapshots."""
    if summary.losses.parts:
        return ""
    return (
        "There are no diagnostics of single anchors: they were off, or no run has written any yet."
    )


def cost_lead(summary: Summary) -> str:
    """Return a note if no run is done."""
    return "" if summary.has_results else "No run is done."


def versions_lead(summary: Summary) -> str:
    """Return a note if no run recorded its versions."""
    return "" if summary.provenance.recorded else "No run has recorded its versions."


def recommendation_sentences(summary: Summary) -> list[str]:
    """Return how many seeds each of :data:`~..analysis.summary.EFFECTS` takes."""
    std, comparisons = summary.spread_of_differences, len(summary.arms) - 1
    return [
        recommendation_sentence(found, std or 0.0, effect=effect, comparisons=comparisons)
        for found, effect in zip(summary.recommendations, EFFECTS, strict=False)
    ]


def recommendation_sentence(
    found: Recommendation,
    std_of_differences: float,
    *,
    effect: float = 1.0,
    power: float = POWER,
    comparisons: int = 1,
) -> str:
    """
    Return how many seeds an effect takes.

    The other arguments are those of :func:`~..analysis.power.recommend_seeds`, which made
    ``found``.
    """
    goal = f"Finding a difference of {effect:g} AP in {10 * power:g} of 10 comparisons"
    against = f"{comparisons} arms against one reference; " if comparisons > 1 else ""
    std = f"{std_of_differences:.2g} AP"
    given = f"({against}the difference has a standard deviation of {std} between seeds)"
    if found.seeds is None:
        return f"{goal} requires more than {MAX_SEEDS} seeds {given}."
    return f"{goal} requires {found.seeds} seeds {given}."


def fairness_sentences(summary: Summary) -> list[str]:
    """Return what the arms differ in besides the loss, and how their runs started."""
    return [*_on_configs(summary), *_on_starts(summary)]


def start_sentences(start: SharedStart) -> list[str]:
    """Return what two runs shared as training began: weights first, then data."""
    return [*_on_weights(start), _on_data(start)]


def provenance_sentences(provenance: Provenance) -> list[str]:
    """Return every version, machine or dataset that is not the same for all runs."""
    found = []
    for fact in provenance.facts:
        if fact.differs:
            values = ", ".join(f"{value} ({count})" for value, count in fact.values.items())
            found.append(f"Not all runs were made with the same {fact.name}: {values}.")
    for use in ("train", "test"):
        contents = {(d.name, d.sha256) for d in provenance.datasets if d.use == use}
        names = [name for name, _ in contents]
        for name in sorted({name for name in names if names.count(name) > 1}):
            found.append(f"The annotations of {name} ({use}) changed while the runs were made.")
    return found


def audit_lead(summary: Summary) -> str:
    """Return what the sentences of the audit mean; "" without them."""
    if not summary.red:
        return ""
    return (
        "The audit of the data and the anchors found faults that no arm and no training mends. The "
        "verdicts below are about detectors with these faults."
    )


def problem_sentences(problems: Iterable[Problem], reference: str) -> list[str]:
    """Return one sentence per problem."""
    return [_problem_sentence(problem, reference) for problem in problems]


def _problem_sentence(problem: Problem, reference: str) -> str:
    names, detail = ", ".join(problem.names), problem.detail
    return {
        ProblemKind.FILE_DAMAGED: (
            f"{names}: {detail}. Delete this file, or the folder of the run to train it again."
        ),
        ProblemKind.AUDIT_DAMAGED: f"{detail}. Delete it; `focal-compare run` writes it again.",
        ProblemKind.NO_RUN_DONE: "No run is done, so there are no detections.",
        ProblemKind.NO_DATA_RECORDED: "No run recorded a COCO json as its test set.",
        ProblemKind.GROUND_TRUTH_MISSING: f"The ground truth {detail} is not on this machine.",
        ProblemKind.GROUND_TRUTH_CHANGED: (
            f"The ground truth {detail} has changed since the evaluation of the runs."
        ),
        ProblemKind.GROUND_TRUTH_BROKEN: f"No run could be evaluated again: {detail}",
        ProblemKind.IMAGES_MISSING: (
            f"The images are not in {detail} on this machine, so the report shows none."
        ),
        ProblemKind.FEDERATED: (
            f"{detail} annotates only some classes on each image, as LVIS does. AP here is that of "
            f"COCO: a detection of a class that is not annotated on its image counts as false."
        ),
        ProblemKind.OTHER_DATA: (
            f"These runs were evaluated on other data and are left out here: {names}."
        ),
        ProblemKind.DETECTIONS_BROKEN: f"{names} could not be evaluated again: {detail}",
        ProblemKind.SNAPSHOT_BROKEN: f"{names}: {detail}",
        ProblemKind.OTHER_ANCHORS: (
            f"In {detail}, the anchors or labels of {names} differ from those of {reference}, for "
            f"example because mining leaves out anchors in crowd regions. So the curves do not "
            f"differ by the loss alone."
        ),
    }[problem.kind]


def _withheld(verdict: Verdict, flaw: Flaw, reference: str) -> str:
    text = f"{verdict.arm}: no verdict, because {flaw_text(flaw, reference)}."
    if verdict.difference is None:
        return text
    seeds = count_text(verdict.difference.n, "seed")
    return f"{text} So far, with {seeds}, it is {verdict.difference.mean:+.1f} AP from {reference}."


def _on_empty(scores: ArmScores) -> str:
    if not scores.empty:
        return ""
    return (
        f" {scores.empty} of the {scores.planned} runs of {scores.arm} detected nothing, which "
        f"counts as an AP of 0."
    )


def _seen(arm: str, reference: str, difference: PairedDifference, digits: int, metric: str) -> str:
    size = f"{abs(difference.mean):.{digits}f}"
    if float(size) == 0:
        return f"{arm} is level with {reference}"
    return f"{arm} is {size} {metric} {'above' if difference.mean > 0 else 'below'} {reference}"


def too_few(n: int) -> str:
    """Return why ``n`` seeds give no verdict."""
    return f"{count_text(n, 'seed')} cannot decide; a verdict takes at least {FEWEST_SEEDS}."


def _on_configs(summary: Summary) -> Iterator[str]:
    configured, differences = summary.fairness.configured, summary.fairness.differences
    if len(configured) < 2:
        yield "Fewer than two arms have started, so their configs cannot be compared yet."
        return
    missing = [arm for arm in summary.arms if arm not in configured]
    if missing:
        yield f"These arms have not started and are not compared here: {', '.join(missing)}."
    others = [difference.key for difference in differences if not difference.is_loss]
    keys = count_text(len(differences), "config key")
    if not differences:
        yield "The configs of all arms are the same."
    elif not others:
        yield f"The arms differ in {keys}, all of them part of the loss."
    else:
        yield (
            f"The arms differ in {keys}, of which {len(others)} {are(others)} not part of the loss "
            f"and may cause the difference: {', '.join(others)}."
        )


def _on_starts(summary: Summary) -> Iterator[str]:
    starts, reference = summary.fairness.starts, summary.reference
    if not starts:
        yield "No two runs recorded their start, so it is not known if they started equally."
        return
    for what, key, extent in (
        ("initial weights", "same_weights", "in every tensor of both"),
        ("data", "same_data", _compared(starts.values())),
    ):
        other = [arm for arm, start in starts.items() if getattr(start, key) < start.seeds]
        if other:
            yield f"The {what} differ from {reference} at the same seed: {', '.join(other)}."
        else:
            yield f"At the same seed, all arms have the {what} of {reference}, {extent}."


def _compared(starts: Iterable[StartOfArm]) -> str:
    """Return how many batches the sentence on the data is about."""
    fewest = min(start.batches for start in starts)
    return f"as far as was compared, which is the first {count_text(fewest, 'batch', 'batches')}"


def _on_weights(start: SharedStart) -> Iterator[str]:
    comparable = start.equal + len(start.other_values)
    pair = f"{start.arm} and {start.reference}"
    if not comparable:
        yield f"{pair} have no tensor of the same name and shape."
    elif start.same_weights:
        yield f"{pair} start from the same weights: {comparable} tensors are bit-equal."
    else:
        yield (
            f"{pair} start from different values in {len(start.other_values)} of {comparable} "
            f"tensors: {_names(start.other_values)}."
        )
    if start.other_shape:
        yield f"Different shapes: {_names(start.other_shape)}."
    if start.only_arm:
        yield f"Only in {start.arm}: {_names(start.only_arm)}."
    if start.only_reference:
        yield f"Only in {start.reference}: {_names(start.only_reference)}."


def _on_data(start: SharedStart) -> str:
    if not start.batches:
        return "No batch was recorded by both, so it is not known if they saw the same data."
    if start.first_other_batch is None:
        return f"The first {start.batches} batches are equal; no later batch was compared."
    number = start.first_other_batch + 1
    return f"They saw different data: batch {number} of the {start.batches} recorded ones differs."


def _names(names: tuple[str, ...]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
