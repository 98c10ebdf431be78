"""Tests of the runs whose time or load says that the machine was busy."""

import json

from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.report.end_sentences import machine_sentences

from ..fake_comparison import FakeArm, change_result, folder_of, write_comparison


def test_a_run_that_is_slower_than_the_others_of_its_arm_is_named(tmp_path):
    made = write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm()}, (1, 2, 3))
    for seed, seconds in ((1, 0.1), (2, 0.129), (3, 0.1)):
        change_result(folder_of(tmp_path, made, "CE", seed), iteration_s=seconds)
    for seed, seconds in ((1, 0.2), (2, 0.2), (3, 0.4)):
        change_result(folder_of(tmp_path, made, "FL", seed), iteration_s=seconds)
    summary = summarize(tmp_path, replicates=0)
    assert summary.slow["CE"] == ()
    assert [(run.name, run.ratio) for run in summary.slow["FL"]] == [("FL seed 3", 2.0)]
    assert machine_sentences(summary) == [
        "More than 1.3 x the median time of their arm: FL seed 3 (2.0 x). Their machine may have "
        "been busy."
    ]


def test_two_runs_have_no_median_that_tells_them_apart(tmp_path):
    made = write_comparison(tmp_path, {"CE": FakeArm()}, (1, 2))
    change_result(folder_of(tmp_path, made, "CE", 1), iteration_s=9.0)
    assert summarize(tmp_path, replicates=0).slow == {"CE": ()}


def test_the_load_at_the_start_is_counted_per_processor(tmp_path):
    made = write_comparison(tmp_path, {"CE": FakeArm()}, (1, 2, 3))
    assert summarize(tmp_path, replicates=0).load is None
    for seed, average in ((1, 0.3), (2, 4.0)):
        file = folder_of(tmp_path, made, "CE", seed) / "env.json"
        more = {"load_average": average, "processors": 2}
        file.write_text(json.dumps({**json.loads(file.read_text()), **more}))
    summary = summarize(tmp_path, replicates=0)
    assert (summary.load.recorded, summary.load.busy, summary.load.largest) == (2, 1, 2.0)
    assert machine_sentences(summary) == [
        "1 of 2 runs began while the processors were busy, at most 2.0 x over. Their times are not "
        "those of an idle machine."
    ]
