"""The spread between seeds, of averages of the weights and of larger test sets."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from focal_plugin.engine.checkpoints.file import write_checkpoint

from .compare.fake_comparison import FakeArm, write_comparison
from .tools import load_tool

tool = load_tool("measure_spread")


def test_the_averages_of_a_run_are_those_that_its_checkpoints_allow():
    found = dict(tool.averages([100, 200, 300, 390, 400], 400))
    assert found["last"] == {400: 1.0}
    assert found["mean of the last 5%"] == {390: 0.5, 400: 0.5}
    assert found["mean of the last 10%"] == found["mean of the last 5%"]
    assert found["mean of the last 25%"] == found["mean of the last 5%"]
    ema = found["EMA, 5% of the training"]
    assert sum(ema.values()) == pytest.approx(1)
    assert ema[390] / ema[400] == pytest.approx(math.exp(-10 / 20))
    assert ema[300] / ema[400] == pytest.approx(math.exp(-100 / 20))
    assert "EMA, 2% of the training" not in found  # a step between checkpoints is longer
    assert [*dict(tool.averages([400], 400))] == ["last"]


def test_weights_are_averaged_and_counters_are_the_last(tmp_path):
    files = {}
    for iteration, value in {10: 1.0, 20: 4.0}.items():
        files[iteration] = tmp_path / f"model_{iteration - 1:07d}.pth"
        state = {"w": torch.full((2,), value), "steps": torch.tensor(iteration)}
        write_checkpoint(files[iteration], {"model": state, "iteration": iteration})
    assert tool.checkpoints(tmp_path) == files
    mean = tool.average_of(files, {10: 0.25, 20: 0.75})
    assert mean["w"].tolist() == [3.25, 3.25]
    assert mean["w"].dtype == torch.float32
    assert mean["steps"] == 20


def test_the_interval_of_a_standard_deviation_holds_it_in_19_of_20_cases():
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        low, high = tool.std_interval(generator.normal(0, 3, 6))
        held += low <= 3 <= high
    assert stats.binomtest(held, 2000, 0.95).pvalue > 0.01


def test_the_interval_of_a_variance_ratio_holds_it_in_19_of_20_cases():
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        shared, own = generator.normal(size=(2, 6))
        ratio, (low, high) = tool.variance_ratio(0.5 * shared, 0.6 * shared + 0.8 * own)
        assert low < ratio < high
        held += low <= 0.25 <= high
    assert stats.binomtest(held, 2000, 0.95).pvalue > 0.01


def test_what_is_known_is_not_evaluated_again(tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    write_comparison(folder, {"FL": FakeArm(0.5), "CE": FakeArm(0.4, without={2: "failed"})})
    tasks = list(tool.tasks_of(folder, []))
    assert [(task.arm, task.seed) for task in tasks] == [("FL", 1), ("CE", 1), ("FL", 2)]
    task = tasks[0]
    state = {"w": torch.ones(1)}
    for iteration in (task.iterations - 1, task.iterations):
        write_checkpoint(task.folder / f"model_{iteration - 1:07d}.pth", {"model": state})
    monkeypatch.setattr(tool, "evaluate", lambda cfg, state, test_set: 7.0 if test_set else 5.0)
    found = tool.measure(task)
    assert {(each.average, each.images, each.ap) for each in found} >= {
        ("last", 250, round(task.ap, 4)),
        ("last", 1000, 7.0),
        ("mean of the last 5%", 250, 5.0),
    }
    again = next(iter(tool.tasks_of(folder, found[1:])))
    assert tool.measure(again) == found[:1]
    file = tmp_path / "spread.json"
    tool.write_records(file, tool.updated(found, found[:2]))
    assert sorted(tool.read_records(tool.Measured, file), key=str) == sorted(found, key=str)


def test_an_average_is_compared_with_the_last_weights_of_the_same_seeds():
    own = ("cells", "FL", 1400)
    runs = "FL, 1,400, cells"
    ap = {1: 20.0, 2: 22.0, 3: 21.0, 4: 25.0}
    results = [
        *(tool.Measured(*own, seed, "last", 250, value) for seed, value in ap.items()),
        *(tool.Measured(*own, seed, "mean", 250, 11 + value / 2) for seed, value in ap.items()),
        *(tool.Measured("few", "FL", 400, seed, "last", 250, 1.0) for seed in (1, 2, 3)),
    ]
    last, mean = tool.averages_table(results).rows
    assert last[:5] == (runs, "last", "250", "4", "22.00")
    assert mean[:5] == (runs, "mean", "250", "4", "22.00")
    assert last[5].startswith(f"{np.std(list(ap.values()), ddof=1):.2f} (")
    assert mean[6].startswith("0.00 (")
    assert mean[7].startswith("0.25 (")
    assert [row[0] for row in tool.schedule_table(results).rows] == [runs]
    assert tool.label(tool.TRAINING_SET, "FL", 400) == "FL, 400"
