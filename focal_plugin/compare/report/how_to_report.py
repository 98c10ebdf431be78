"""Paragraph that a paper can take over: design, results, method and versions, with the numbers."""

from __future__ import annotations

import re

from ...pages.text import count_text, listed, p_text, plain
from ..analysis.collected import Collected
from ..analysis.over_datasets import OverDatasets
from ..analysis.recipe import Ingredient
from ..analysis.scores import Standing
from ..analysis.shrinkage import FEWEST_VARIANCES
from ..analysis.statistics import ALPHA, PairedDifference
from ..analysis.summary import Summary
from ..analysis.verdicts import Verdict
from ..plan.design import FEWEST_SEEDS
from .precision import difference_text, verdict_interval_text
from .sentences import reference_note
from .tuning_section import at_best, tuning_sentence

TITLE = "Focal loss and its rivals as drop-in components of Detectron2"
YEAR, LICENSE = 2026, "Apache-2.0"
METHOD = "paired t test over seeds"
CORRECTION = "Holm's correction"


def how_to_report(summary: Summary) -> str:
    """
    Return what to write about the comparison; "" before a run is done.

    It names arms, seeds, mean differences, intervals, p-values, test, correction and versions, and
    claims nothing that the verdicts do not say.
    """
    if not summary.has_results:
        return ""
    sentences = [_design(summary), _data(summary)]
    sentences += _results(summary, summary.equal)
    if summary.best is not None:
        sentences += [tuning_sentence(summary), *_results(summary, summary.best)]
    sentences += [_method(summary), reference_note(summary), _made_with(summary)]
    return " ".join(filter(None, sentences))


def collected_paragraph(collected: Collected) -> str:
    """Return what to write about a comparison on several datasets or folds; "" without results."""
    found = [each for each in collected.equal if each.difference is not None]
    if not found:
        return ""
    first = next(iter(collected.members.values()))
    names = [plain(name) for name in collected.members]
    on = f"the {len(names)} folds of a cross-validation, stratified by class"
    if collected.kind == "dataset":
        on = listed(names, most=len(names))
    clauses = [_over_clause(each) for each in found]
    corrected = f" with {CORRECTION} over {count_text(len(found), 'arm')}" if len(found) > 1 else ""
    method = (
        "a t test with the variance of Nadeau and Bengio (2003), which allows for training sets "
        "that overlap,"
        if collected.kind == "fold"
        else "a t test of the mean over the datasets, with the error of the seeds and the degrees "
        "of freedom of Welch and Satterthwaite"
    )
    return (
        f"We compared {listed([plain(each.arm) for each in found], most=len(found))} with "
        f"{plain(collected.reference)} on {on}, with {count_text(len(first.seeds), 'seed')} each. "
        f"On average over the {collected.kind}s: {'; '.join(clauses)}. Verdicts are from {method}"
        f"{corrected}, at a significance level of {ALPHA:g}. {_made_with(first)}"
    ).rstrip()


def _over_clause(each: OverDatasets) -> str:
    numbers = [f"{difference_text(each)} AP"]
    if each.difference is not None and each.difference.interval is not None:
        numbers.append(f"{1 - ALPHA:.0%} interval {verdict_interval_text(each)}")
    numbers += _p_of_decision(each)
    numbers.append(f"above on {each.positive} of {len(each.datasets)}")
    if each.left_out:
        names = [plain(name) for name in each.left_out]
        numbers.append(f"without {listed(names, most=len(names))}, where it left no AP")
    return f"{plain(each.arm)}: {each.decision} ({', '.join(numbers)})"


def bibtex(summary: Summary) -> str:
    """Return the citation of this package, in the version that trained the runs; "" before that."""
    if not summary.has_results:
        return ""
    version = re.sub(r"[^\w.+!-]", "", _version(summary, "focal_plugin"))
    lines = [
        "@software{focal_plugin,",
        "  author = {{focal\\_plugin contributors}},",
        f"  title = {{{{focal\\_plugin: {TITLE}}}}},",
        *([f"  version = {{{version}}},"] if version else []),
        f"  year = {{{YEAR}}},",
        f"  license = {{{LICENSE}}},",
        "}",
    ]
    return "\n".join(lines)


def _design(summary: Summary) -> str:
    others = [plain(arm) for arm in summary.arms if arm != summary.reference]
    up_to = "up to " if summary.looks.is_sequential else ""
    seeds = up_to + count_text(len(summary.seeds), "seed")
    reference = plain(summary.reference)
    if not summary.trained:
        files = count_text(len(summary.seeds), "file")
        return f"We compared the detections of {listed(others)} with {reference}, {files} of each."
    if not others:
        return f"We trained {reference} with {seeds}."
    iterations = " or ".join(f"{n:,}" for n in summary.iterations)
    failed = summary.states["failed"]
    lost = f" {count_text(failed, 'run')} of {len(summary.runs)} failed." if failed else ""
    return (
        f"We compared {listed(others, most=len(others))} with {reference}, each trained with "
        f"{seeds} for {iterations} iterations{_shared(summary)}.{lost}"
    )


def _shared(summary: Summary) -> str:
    """Return what the runs of a seed are known to share."""
    starts = summary.fairness.starts.values()
    if not starts or not all(s.same_weights == s.same_data == s.seeds for s in starts):
        return ""
    return "; runs of one seed share initial weights and the order of the data"


def _data(summary: Summary) -> str:
    test = next((d for d in summary.provenance.datasets if d.use == "test"), None)
    if test is None:
        return "AP is that of COCO (IoU .50 to .95), of the last checkpoint."
    images = "" if test.images is None else f" ({count_text(test.images, 'image')})"
    return (
        f"AP is that of COCO (IoU .50 to .95), in percent, of the last checkpoint, on "
        f"{plain(test.name)}{images}."
    )


def _results(summary: Summary, standing: Standing) -> list[str]:
    reference = standing.arm(summary.reference).metrics["AP"]
    sentences = []
    if reference.mean is not None:
        spread = "" if reference.std is None else f" ± {reference.std:.1f}"
        sentences.append(f"{plain(summary.reference)} reaches {reference.mean:.1f}{spread} AP.")
    clauses = [_clause(v, v.difference) for v in standing.verdicts if v.difference is not None]
    without = [plain(v.arm) for v in standing.verdicts if v.difference is None]
    clauses += [f"no finished run: {listed(without, most=len(without))}"] if without else []
    if clauses:
        best = standing.role == "best"
        where = f"{at_best(summary)}, against it" if best else "Against it"
        sentences.append(f"{where}: {'; '.join(clauses)}.")
    return sentences


def _clause(verdict: Verdict, difference: PairedDifference) -> str:
    numbers = [f"{difference_text(verdict)} AP"]
    if difference.interval is not None:
        numbers.append(f"{1 - ALPHA:.0%} interval {verdict_interval_text(verdict)}")
    numbers += _p_of_decision(verdict)
    numbers.append(count_text(difference.n, "seed"))
    return f"{plain(verdict.arm)}: {verdict.decision} ({', '.join(numbers)})"


def _p_of_decision(found: Verdict | OverDatasets) -> list[str]:
    """Return the p-value of the test that led to the decision; [] if nothing can be decided."""
    one_sided = {"equivalent": found.p_equivalent, "not worse": found.p_not_worse}
    p = one_sided.get(found.decision, found.p)
    if p is None:
        return []
    text = p_text(p)
    return [f"p {text}" if text.startswith("<") else f"p = {text}"]


def _method(summary: Summary) -> str:
    arms = len(summary.arms) - 1
    if not arms:
        return ""
    corrected = f" with {CORRECTION} over {count_text(arms, 'arm')}" if arms > 1 else ""
    shrunk = ", variances shrunk as in limma" if arms >= FEWEST_VARIANCES else ""
    looks = ""
    if summary.looks.is_sequential:
        counts = listed([str(count) for count in summary.looks.looks], most=20)
        looks = f" The results were judged after {counts} seeds, as planned; p covers all looks."
    beyond = max((v.unplanned for v in summary.equal.verdicts), default=0)
    if beyond:
        return (
            f"{count_text(beyond, 'seed')} of an arm came after a look at the results, so verdicts "
            f"are from an anytime-valid t test over seeds{corrected} at a significance level of "
            f"{ALPHA:g}; intervals are of single differences, and hold only for a planned number."
        )
    margin = ""
    if summary.margin is not None:
        margin = (
            f" Equivalence is from two one-sided tests with a margin of {summary.margin:g} AP, "
            f"and 'not worse' from one of them."
        )
    return (
        f"Verdicts are from a two-sided {METHOD}{corrected} at a significance level of {ALPHA:g}"
        f"{shrunk}, from {FEWEST_SEEDS} seeds on; intervals are of single differences."
        f"{looks}{margin}"
    )


def _made_with(summary: Summary) -> str:
    names = {"focal_plugin": "focal_plugin", "detectron2": "Detectron2", "torch": "PyTorch"}
    found = [(text, _version(summary, name)) for name, text in names.items()]
    made = [f"{text} {version}" for text, version in found if version]
    hardware = _value(summary.recipe, "hardware")
    on = f" on {hardware}" if hardware else ""
    return f"The runs were made with {listed(made)}{on}." if made else ""


def _version(summary: Summary, name: str) -> str:
    """Return the version that most runs recorded; "" if none did."""
    for fact in summary.provenance.facts:
        if fact.name == name:
            value = next(iter(fact.values))
            return "" if value == "not recorded" else plain(value)
    return ""


def _value(recipe: tuple[Ingredient, ...], name: str) -> str:
    for each in recipe:
        if each.name == name and not each.differs:
            return plain(next(iter(each.values)))
    return ""
