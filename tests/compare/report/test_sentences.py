"""Tests of the sentences of a report, word by word."""

from dataclasses import replace

from focal_plugin.compare.analysis.fairness import SharedStart
from focal_plugin.compare.analysis.power import recommend_seeds
from focal_plugin.compare.analysis.problem import Problem, ProblemKind
from focal_plugin.compare.analysis.verdicts import Flaw, FlawKind, WorstCase, verdicts
from focal_plugin.compare.plan.design import Design
from focal_plugin.compare.report.sentences import (
    flaw_text,
    problem_sentences,
    recommendation_sentence,
    start_sentences,
    verdict_sentence,
)
from focal_plugin.pages.text import MINUS, p_text

from ...each import each
from ..analysis.test_verdicts import against_zero, arm, spread


@each(
    ("difference", "others", "sentence"),
    [
        (
            arm(5.3, 3.7, 5.9, 4.4, 6.9, 4.4),
            6,
            "FL is 5.1 AP above CE (95% interval 3.9 to 6.3, 6 seeds, p = .0009 after Holm over 7 "
            "arms).",
        ),
        (
            spread(-0.3, size=0.1),
            0,
            "FL is 0.30 AP below CE (95% interval -0.50 to -0.10, 8 seeds, p = .010).",
        ),
        (
            spread(0.2),
            0,
            f"FL is 0.2 AP above CE (8 seeds, p = .66): undecided, within {MINUS}0.8 to +1.2.",
        ),
        (
            spread(0.0),
            0,
            f"FL is level with CE (8 seeds, p = 1): undecided, within {MINUS}1.0 to +1.0.",
        ),
        (
            spread(1.2),
            6,
            "FL is 1.2 AP above CE (8 seeds, p = .19 after Holm over 7 arms): undecided, within "
            "+0.2 to +2.2. This interval is for one test; over all tests together it would hold 0.",
        ),
        (
            spread(3.0, n=3),
            0,
            "FL is 3.0 AP above CE (95% interval 1.8 to 4.2, 3 seeds). 3 seeds cannot decide; a "
            "verdict takes at least 4.",
        ),
        (
            arm(2.0),
            0,
            "FL is 2.0 AP above CE (1 seed). 1 seed cannot decide; a verdict takes at least 4.",
        ),
    ],
)
def test_verdict_sentences(difference, others, sentence):
    verdict = against_zero(difference, others)
    assert verdict_sentence(verdict, "CE", arms=others + 1) == sentence


@each(
    ("difference", "options", "end"),
    [
        (
            spread(0.1, size=0.3),
            {"margin": 1.0},
            ", p = .71): equivalent, a difference below 1 AP (p = .0052).",
        ),
        (
            spread(0.6),
            {"margin": 1.0},
            ", p = .21): not worse than CE by 1 AP (p = .0039).",
        ),
        (
            spread(0.5, size=0.1),
            {"margin": 1.0},
            ", p = .0007). The difference is below the margin of 1 AP.",
        ),
        (
            spread(0.0, size=0.1),
            {"design": Design((4, 6, 8), effect=2.0)},
            "It stopped after 4 seeds, because a difference of 2 AP is out of its reach.",
        ),
        (
            spread(1.2),
            {"design": Design((6,))},
            "2 seeds came after a look at the results, so p is anytime-valid.",
        ),
    ],
)
def test_a_verdict_says_what_its_reader_has_to_know(difference, options, end):
    sentence = verdict_sentence(against_zero(difference, **options), "CE")
    assert sentence.endswith(end), sentence


def test_a_failed_run_has_a_line_for_the_worst_case():
    verdict = replace(against_zero(spread(3.0)), worst_case=WorstCase(1, -1.2, "undecided"))
    assert verdict_sentence(verdict, "CE").endswith(
        f" 1 run failed; with an AP of 0 instead, the difference is {MINUS}1.2 AP: undecided."
    )


def test_arms_without_a_common_seed_cannot_be_compared():
    (verdict,) = verdicts({"CE": arm(1.0), "OHEM": {}}, "CE")
    assert verdict_sentence(verdict, "CE") == (
        "OHEM and CE have no finished seed in common, so they cannot be compared."
    )


def test_the_metric_is_named_in_the_sentence():
    (verdict,) = verdicts({"FL": spread(3.0), "CE": spread(0.0)}, "CE")
    sentence = verdict_sentence(verdict, "CE", metric="AP50")
    assert sentence.startswith("FL is 3.00 AP50 above CE")


@each(
    ("flaw", "text"),
    [
        (Flaw(FlawKind.NO_AP, 2, 7), "2 of its 7 runs left no AP"),
        (Flaw(FlawKind.NONE_DONE, 7, 7), "none of its runs is done"),
        (Flaw(FlawKind.UNFINISHED, 1, 7), "1 of its 7 runs is still to come"),
        (Flaw(FlawKind.UNFINISHED, 2, 7), "2 of its 7 runs are still to come"),
        (
            Flaw(FlawKind.NOT_PLANNED, 7, 7),
            "its runs at its best setting are not planned yet",
        ),
        (
            Flaw(FlawKind.NO_AP, 1, 7, of_reference=True),
            "1 of the 7 runs of the reference CE left no AP",
        ),
    ],
)
def test_every_flaw_has_a_text(flaw, text):
    assert flaw_text(flaw, "CE") == text


@each("kind", list(ProblemKind))
def test_every_problem_has_a_sentence(kind):
    (sentence,) = problem_sentences([Problem(kind, ("FL seed 2",), "detail")], "CE")
    assert len(sentence) > 15


def test_the_recommendation_is_a_sentence():
    assert recommendation_sentence(recommend_seeds(1.0), 1.0) == (
        "Finding a difference of 1 AP in 8 of 10 comparisons requires 10 seeds "
        "(the difference has a standard deviation of 1 AP between seeds)."
    )
    found = recommend_seeds(0.5, comparisons=7, power=0.9)
    assert recommendation_sentence(found, 0.5, power=0.9, comparisons=7) == (
        "Finding a difference of 1 AP in 9 of 10 comparisons requires 8 seeds (7 arms against one "
        "reference; the difference has a standard deviation of 0.5 AP between seeds)."
    )
    sentence = recommendation_sentence(recommend_seeds(100.0), 100.0)
    assert "requires more than 1000 seeds" in sentence


@each(
    ("start", "said"),
    [
        (
            SharedStart("FL", "CE", 3, (), (), (), (), 2, None),
            [
                "FL and CE start from the same weights: 3 tensors are bit-equal.",
                "The first 2 batches are equal; no later batch was compared.",
            ],
        ),
        (
            SharedStart("FL", "CE", 2, ("b",), ("head",), ("new",), ("old",), 2, 1),
            [
                "FL and CE start from different values in 1 of 3 tensors: b.",
                "Different shapes: head.",
                "Only in FL: new.",
                "Only in CE: old.",
                "They saw different data: batch 2 of the 2 recorded ones differs.",
            ],
        ),
        (
            SharedStart("FL", "CE", 0, (), (), tuple(f"n{i}" for i in range(9)), (), 0, None),
            [
                "FL and CE have no tensor of the same name and shape.",
                "Only in FL: n0, n1, n2, n3, n4 and 4 more.",
                "No batch was recorded by both, so it is not known if they saw the same data.",
            ],
        ),
    ],
)
def test_start_sentences(start, said):
    assert start_sentences(start) == said


@each(
    ("p", "text"),
    [(1.0, "1"), (0.999, "1"), (0.25, ".25"), (0.03125, ".031"), (4e-4, ".0004"), (0, "< .0001")],
)
def test_p_values_for_people(p, text):
    assert p_text(p) == text
