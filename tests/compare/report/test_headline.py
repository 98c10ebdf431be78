"""Tests of the headline, and of the rule that no rounded number contradicts a verdict."""

import re
from dataclasses import replace

import pytest

from focal_plugin.compare.analysis.power import recommend_seeds
from focal_plugin.compare.analysis.scores import ArmScores, Spread, Standing
from focal_plugin.compare.analysis.statistics import paired_difference
from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.analysis.verdicts import Verdict
from focal_plugin.compare.plan.setting import EQUAL
from focal_plugin.compare.report.headline import headline, headlines
from focal_plugin.compare.report.precision import difference_text, verdict_interval_text
from focal_plugin.compare.report.sentences import verdict_sentence
from focal_plugin.compare.report.tables import verdict_table

from ...each import each
from ..fake_comparison import FakeArm, write_comparison

SIX = (1, 2, 3, 4, 5, 6)


def summary_of(folder, arms, seeds):
    write_comparison(folder, arms, seeds)
    return summarize(folder, replicates=0)


def test_the_headline_names_all_verdicts_with_their_differences(tmp_path):
    arms = {"CE": FakeArm(0.5), "FL": FakeArm(0.95), "GHM": FakeArm(0.1), "X": FakeArm(0.51)}
    summary = summary_of(tmp_path, {**arms, "Y": FakeArm(0.9, {1: "failed"})}, SIX)
    found = {v.arm: difference_text(v) for v in summary.equal.verdicts}
    assert headline(summary, summary.equal).startswith(
        f"FL ({found['FL']} AP) and Y ({found['Y']} AP) are above CE; GHM ({found['GHM']} AP) is "
        f"below CE; undecided: X ({found['X']} AP); a new plan of about "
    )
    table = verdict_table(summary, summary.equal)
    assert [row[0] for row in table.rows] == ["CE", "FL", "GHM", "X", "Y"]
    assert [row[-1] for row in table.rows][1:3] == ["higher", "lower"]
    assert table.rows[-1][2] == "5 of 6, 1 failed"


@pytest.mark.parametrize(("state", "said"), [("failed", True), ("running", False)])
def test_an_arm_without_a_finished_run_is_named_once_all_have_ended(tmp_path, state, said):
    lost = FakeArm(without=dict.fromkeys(SIX, state))
    summary = summary_of(tmp_path, {"CE": FakeArm(0.5), "FL": FakeArm(0.95), "E": lost}, SIX)
    (headline,) = headlines(summary)
    assert headline.startswith("FL (")
    assert headline.endswith("; E left no AP.") == said


def test_too_few_seeds_name_the_best_so_far_and_what_decides(tmp_path):
    arms = {"CE": FakeArm(0.3), "FL": FakeArm(0.9), "OHEM": FakeArm(0.5)}
    summary = summary_of(tmp_path, arms, (1, 2))
    (found,) = [v.difference.mean for v in summary.equal.verdicts if v.arm == "FL"]
    (said,) = headlines(summary)
    assert said.startswith(f"FL is best so far: +{found:.1f} AP over CE in both seeds; ")
    assert re.search(r"; about \d+ more seeds decide if the difference has this size\.$", said)


def test_the_seeds_to_a_verdict_are_those_of_the_spread_of_the_arm_itself(tmp_path):
    arms = {"CE": FakeArm(0.3), "FL": FakeArm(0.9), "OHEM": FakeArm(0.5)}
    summary = summary_of(tmp_path, arms, (1, 2))
    tight, wide = (
        paired_difference({1: 5.0 + spread, 2: 5.0 - spread}, {1: 0.0, 2: 0.0})
        for spread in (0.5, 20)
    )
    verdicts = (Verdict("FL", "undecided", tight, None), Verdict("OHEM", "undecided", wide, None))
    changed = replace(
        summary,
        equal=replace(summary.equal, verdicts=verdicts),
        spread_of_differences=20.0,
    )
    (said,) = headlines(changed)
    more = recommend_seeds(tight.std, 5.0, comparisons=2).seeds - 2
    assert said.startswith("FL is best so far")
    assert f"; about {more} more seeds decide" in said


def test_the_reference_can_be_best_so_far(tmp_path):
    summary = summary_of(tmp_path, {"CE": FakeArm(0.9), "FL": FakeArm(0.3)}, (1,))
    assert re.fullmatch(
        r"CE is best so far: FL comes closest, with \u2212\d+\.\d AP in one seed; a verdict takes "
        r"at least 3 more seeds\.",
        headline(summary, summary.equal),
    )


def test_unfinished_runs_are_what_a_verdict_waits_for(tmp_path):
    summary = summary_of(tmp_path, {"CE": FakeArm(), "FL": FakeArm(0.9, {2: "missing"})}, (1, 2))
    assert headline(summary, summary.equal).endswith("in one seed; 1 run is not finished.")


def test_without_a_difference_the_headline_says_why(tmp_path):
    missing = FakeArm(without={1: "missing"})
    summary = summary_of(tmp_path, {"CE": missing, "FL": missing}, (1,))
    assert headline(summary, summary.equal) == "No arm has a finished seed in common with CE yet."
    alone = summary_of(tmp_path / "alone", {"CE": FakeArm()}, (1,))
    assert "only one arm" in headline(alone, alone.equal)


def test_what_the_margin_says_is_in_the_headline(tmp_path):
    summary = summary_of(tmp_path, {"CE": FakeArm(0.5), "X": FakeArm(0.51)}, SIX)
    verdict = replace(summary.equal.verdict("X"), decision="equivalent", margin=1.5)
    found = headline(summary, replace(summary.equal, verdicts=(verdict,)))
    assert re.fullmatch(r"X \(\S+ AP\) is equivalent to CE within 1\.5 AP\.", found)


def test_an_undecided_arm_gets_a_new_plan_and_not_more_seeds(tmp_path):
    summary = summary_of(tmp_path, {"CE": FakeArm(0.5), "X": FakeArm(0.51)}, SIX)
    found = headline(summary, summary.equal)
    assert re.search(
        r"a new plan of about \d+ seeds decides if the difference has this size\.$", found
    )
    verdict = replace(summary.equal.verdict("X"), out_of_reach=2.0)
    found = headline(summary, replace(summary.equal, verdicts=(verdict,)))
    assert found.endswith("a difference of 2 AP is out of reach.")


def verdict_of(*differences):
    found = paired_difference(dict(enumerate(differences)), dict.fromkeys(range(6), 0.0))
    return Verdict("FL", "higher" if found.mean > 0 else "lower", found, found.t_p)


@each(
    ("size", "mean", "interval"),
    [
        (0.001, "+0.001", "+0.001 to +0.001"),
        (0.04, "+0.04", "+0.04 to +0.04"),
        (-0.0004, "\u22120.0004", "\u22120.0004 to \u22120.0004"),
        (3.0, "+3.0", "+3.0 to +3.0"),
    ],
)
def test_a_constant_difference_is_never_shown_as_0(size, mean, interval):
    verdict = verdict_of(*[size] * 6)
    assert (difference_text(verdict), verdict_interval_text(verdict)) == (mean, interval)
    assert "level with" not in verdict_sentence(verdict, "CE")


def difference_with(mean, interval):
    found = paired_difference({1: mean, 2: mean}, {1: 0.0, 2: 0.0})
    return replace(found, std=0.1, interval=interval, t_p=0.01)


def test_no_limit_of_a_decided_interval_is_rounded_to_0():
    low = 0.0004
    difference = difference_with(0.1, (low, 0.2))
    verdict = Verdict("FL", "higher", difference, 0.01)
    assert verdict_interval_text(verdict) == "+0.0004 to +0.2000"
    assert "interval 0.0004 to 0.2000" in verdict_sentence(verdict, "CE")


def test_an_undecided_difference_keeps_its_one_decimal():
    difference = difference_with(0.04, (-1.0, 1.08))
    assert difference_text(Verdict("FL", "undecided", difference, 0.9)) == "0.0"


@pytest.fixture
def standing():
    spread = Spread.of(dict.fromkeys(SIX, 1.0))
    states = {"pending": 0, "running": 0, "done": 6, "failed": 0}
    arms = tuple(ArmScores(name, EQUAL, states, {"AP": spread}) for name in ("CE", "FL"))
    return Standing("equal", arms, (verdict_of(*[1e-3] * 6),))


def test_no_format_contradicts_a_verdict_on_a_tiny_difference(standing, tmp_path):
    summary = summary_of(tmp_path, {"CE": FakeArm(), "FL": FakeArm()}, (1,))
    assert headline(summary, standing) == "FL (+0.001 AP) is above CE."
    row = verdict_table(summary, standing).rows[1]
    assert (*row[3:5], row[-1]) == ("+0.001", "+0.001 to +0.001", "higher")
