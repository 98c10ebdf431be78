"""Tests of the paragraph for a paper, and of the citation."""

import re
from dataclasses import replace

import yaml

from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.plan.comparison import Comparison
from focal_plugin.compare.plan.design import Design
from focal_plugin.compare.report.how_to_report import LICENSE, TITLE, YEAR, bibtex, how_to_report
from focal_plugin.pages.text import p_text

from ...conftest import ROOT
from ..fake_comparison import FakeArm, write_comparison


def summary_of(folder, arms, seeds):
    write_comparison(folder, arms, seeds)
    return summarize(folder, replicates=0)


def test_the_paragraph_has_all_numbers(tmp_path):
    arms = {"CE": FakeArm(0.5), "FL": FakeArm(0.95), "X": FakeArm(0.51)}
    summary = summary_of(tmp_path, arms, (1, 2, 3, 4, 5, 6))
    text = how_to_report(summary)
    assert text.startswith(
        "We compared FL and X with CE, each trained with 6 seeds for 40 iterations; runs of one "
        "seed share initial weights and the order of the data. AP is that of COCO (IoU .50 to "
        ".95), in percent, of the last checkpoint, on fake_val (8 images). CE reaches "
    )
    (found,) = [v for v in summary.equal.verdicts if v.arm == "FL"]
    low, high = found.difference.interval
    assert (
        f"Against it: FL: higher (+{found.difference.mean:.1f} AP, 95% interval +{low:.1f} to "
        f"+{high:.1f}, p = {p_text(found.p)}, 6 seeds); X: undecided ("
    ) in text
    assert "paired t test over seeds with Holm's correction over 2 arms" in text
    assert text.endswith("The runs were made with PyTorch 2.11 on cpu, 1 thread, Linux.")


def test_looks_margin_and_shrunk_variances_are_named(tmp_path):
    arms = {"CE": FakeArm(0.5), "FL": FakeArm(0.95), "X": FakeArm(0.51), "Y": FakeArm(0.6)}
    write_comparison(tmp_path, arms, (1, 2, 3, 4, 5, 6))
    comparison = Comparison.read(tmp_path)
    replace(comparison, design=Design((4, 6), 2.0), margin=1.5).write(tmp_path)
    text = how_to_report(summarize(tmp_path, replicates=0))
    assert "each trained with up to 6 seeds" in text
    assert "variances shrunk as in limma, from 4 seeds on" in text
    assert "judged after 4 and 6 seeds, as planned; p covers all looks." in text
    assert "two one-sided tests with a margin of 1.5 AP, and 'not worse' from one of them." in text


def test_the_p_is_that_of_the_decision(tmp_path):
    write_comparison(tmp_path, {"CE": FakeArm(0.5), "X": FakeArm(0.51)}, (1, 2, 3, 4, 5, 6))
    comparison = Comparison.read(tmp_path)
    replace(comparison, margin=60.0).write(tmp_path)
    summary = summarize(tmp_path, replicates=0)
    (found,) = summary.equal.verdicts
    assert found.decision == "equivalent"
    p = p_text(found.p_equivalent)
    assert f", p {p if p.startswith('<') else f'= {p}'}, 6 seeds)" in how_to_report(summary)
    worse = replace(found, decision="not worse", p_not_worse=0.0123)
    changed = replace(summary, equal=replace(summary.equal, verdicts=(worse,)))
    assert ", p = .012, 6 seeds)" in how_to_report(changed)


def test_seeds_beyond_the_plan_and_another_reference_are_named(tmp_path):
    write_comparison(tmp_path, {"CE": FakeArm(0.5), "FL": FakeArm(0.95)}, (1, 2, 3, 4, 5, 6))
    replace(Comparison.read(tmp_path), design=Design((4,))).write(tmp_path)
    text = how_to_report(summarize(tmp_path, replicates=0, reference="FL"))
    assert "2 seeds of an arm came after a look at the results" in text
    assert "an anytime-valid t test over seeds at" in text
    assert "two-sided" not in text
    assert "FL was chosen as the reference of this report" in text


def test_failed_and_missing_runs_are_part_of_it(tmp_path):
    arms = {
        "CE": FakeArm(),
        "A": FakeArm(without={1: "failed"}),
        "B": FakeArm(without={1: "missing"}),
    }
    text = how_to_report(summary_of(tmp_path, arms, (1,)))
    assert "1 run of 3 failed." in text
    assert "Against it: no finished run: A and B." in text
    assert "share initial weights" in text  # the failed run recorded its start


def test_nothing_is_claimed_about_starts_that_differ(tmp_path):
    made = write_comparison(tmp_path, {"CE": FakeArm(), "A": FakeArm()}, (1,))
    start = tmp_path / made.runs[1].id / "start.json"
    start.write_text(start.read_text().replace("1 7", "other"))
    assert "share" not in how_to_report(summarize(tmp_path, replicates=0))


def test_before_a_run_is_done_there_is_nothing_to_report(tmp_path):
    missing = FakeArm(without={1: "missing"})
    summary = summary_of(tmp_path, {"CE": missing, "FL": missing}, (1,))
    assert (how_to_report(summary), bibtex(summary)) == ("", "")


def test_the_citation_is_that_of_the_repository(tmp_path):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == LICENSE
    assert citation["date-released"].year == YEAR
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert TITLE in pyproject
    found = bibtex(summary_of(tmp_path, {"CE": FakeArm()}, (1,)))
    (author,) = citation["authors"]
    assert author["name"].replace("_", "\\_") in found
    assert re.fullmatch(r"@software\{focal_plugin,\n(  \w+ = \{.*\},\n)+\}", found)
