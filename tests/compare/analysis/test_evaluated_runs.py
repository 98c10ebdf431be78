"""Evaluation of all runs."""

import gc

from focal_plugin.compare.analysis import evaluate_files
from focal_plugin.compare.analysis.detections.average_precision import Evaluation
from focal_plugin.compare.analysis.summary import summarize

from ..fake_comparison import FakeArm, write_comparison


def test_at_most_one_run_is_in_memory(tmp_path, monkeypatch):
    write_comparison(tmp_path, {"CE": FakeArm(), "FL": FakeArm(), "GHM": FakeArm()})
    alive, measure = [], evaluate_files.run_numbers

    def count(evaluation, **options):
        gc.collect()
        alive.append(sum(isinstance(o, Evaluation) for o in gc.get_objects()))
        return measure(evaluation, **options)

    monkeypatch.setattr(evaluate_files, "run_numbers", count)
    summary = summarize(tmp_path, replicates=4)
    assert alive == [1] * 6
    assert summary.detections.images == 8
