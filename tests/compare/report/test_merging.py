"""Tests that a sentence about several arms stands once."""

import re

from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.plan.setting import Setting
from focal_plugin.compare.report.figures import draw_all
from focal_plugin.compare.report.merging import recommendation_lines, standing_lines
from focal_plugin.compare.report.once import captions_once, contents_once
from focal_plugin.compare.report.sections import contents

from ..fake_comparison import FakeArm, write_comparison


def lines_of(folder, arms, seeds=(1, 2)):
    write_comparison(folder, arms, seeds)
    summary = summarize(folder, replicates=0)
    return standing_lines(summary.equal, summary.reference), summary


def test_the_reason_that_seeds_are_too_few_stands_once(tmp_path):
    arms = {"CE": FakeArm(0.5), "FL": FakeArm(0.9), "X": FakeArm(0.6)}
    lines, _ = lines_of(tmp_path, arms)
    assert len(lines) == 3
    assert lines[0].startswith("FL is ")
    assert lines[0].endswith("2 seeds).")
    assert lines[2] == "2 seeds cannot decide; a verdict takes at least 4."


def test_arms_with_the_same_flaw_share_a_sentence(tmp_path):
    missing = FakeArm(0.9, {1: "missing"})
    lines, _ = lines_of(tmp_path, {"CE": FakeArm(), "A": missing, "B": missing})
    assert lines[0] == "Each of A and B: no verdict, because 1 of its 2 runs is still to come."
    assert lines[1].startswith("So far, against CE: A +")
    assert lines[1].count("(1 seed)") == 2


def test_one_arm_with_a_flaw_is_named(tmp_path):
    lines, _ = lines_of(tmp_path, {"CE": FakeArm(), "A": FakeArm(0.9, {1: "missing"})})
    assert lines[0] == "A: no verdict, because 1 of its 2 runs is still to come."


def test_empty_runs_of_the_reference_are_counted_once(tmp_path):
    arms = {"CE": FakeArm(without={1: "empty"}), "A": FakeArm(0.9), "B": FakeArm(0.8)}
    lines, _ = lines_of(tmp_path, arms)
    assert lines[-1] == "Runs that detected nothing count as an AP of 0: 1 of 2 of CE."
    assert sum("detected nothing" in line for line in lines) == 1


def test_the_numbers_of_seeds_for_all_effects_are_one_sentence(tmp_path):
    _, summary = lines_of(tmp_path, {"CE": FakeArm(0.5), "FL": FakeArm(0.6)}, (1, 2, 3))
    (line,) = recommendation_lines(summary)
    assert line.startswith("Seeds that find a difference in 8 of 10 comparisons, by its size: 0.5")
    assert line.count("AP: ") == 3


def test_no_sentence_and_no_caption_stands_twice(tmp_path):
    arms = {"CE": FakeArm(0.5), "FL": FakeArm(0.9), "X": FakeArm(0.6, {1: "failed"})}
    arms["Y"] = arms["X"]
    write_comparison(tmp_path, arms, factors=(0.5, 1.0), best=dict.fromkeys(arms, Setting(0.5)))
    summary = summarize(tmp_path, replicates=0)
    drawings = draw_all(summary)
    said = [re.split(r"(?<=[.]) (?=[A-Z])", d.caption) for d in captions_once(drawings)]
    for content in contents_once(contents(summary)):
        said.append(content.sentences)
        said += [re.split(r"(?<=[.]) (?=[A-Z])", table.caption) for table in content.tables]
    sentences = [sentence for of_one in said for sentence in of_one if sentence]
    assert len(sentences) > 40
    assert len(sentences) == len(set(sentences))
    again = [d.caption for d in drawings]  # what is said once is not taken from the others
    assert max(map(again.count, again)) == 2
