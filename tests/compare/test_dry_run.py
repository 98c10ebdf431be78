"""Tests of the text of a dry run."""

import json
import re

import numpy as np
import pytest

import focal_plugin_commands as commands
from focal_plugin.compare import dry_run, run_command
from focal_plugin.compare.analysis.power import (
    paired_t_power,
    smallest_effect,
    smallest_significant,
)
from focal_plugin.compare.analysis.statistics import paired_difference
from focal_plugin.compare.plan.comparison import Comparison
from focal_plugin.compare.plan.spec import read_plan

from ..conftest import ROOT
from ..forked import NARROW

BASE = str(ROOT / "configs" / "Shapes-Detection" / "retinanet_small.yaml")
GAMMA = "MODEL.RETINANET.FOCAL_LOSS_GAMMA"


def write(folder, **content):
    spec = folder / "spec.yaml"
    spec.write_text(json.dumps({"base": BASE, "seeds": 1, **content}))
    return spec


def comparison(seeds, arms=2):
    names = tuple(f"arm {i}" for i in range(arms))
    return Comparison("x", names, names[0], tuple(range(seeds)), ())


def test_a_small_table_has_a_row_for_each_key_and_a_column_for_each_arm(tmp_path):
    spec = write(tmp_path, arms={"g1": [GAMMA, 1], "FL": []}, reference="FL")
    text = dry_run.plan_text([read_plan(spec)], tmp_path)
    assert re.search(rf"key +FL +g1\n.*\n{GAMMA} +2.0 +1.0\n", text)


def test_a_wide_table_becomes_a_list_of_each_arm(tmp_path):
    arms = {f"gamma number {g}": [GAMMA, g] for g in range(6)}
    text = dry_run.plan_text([read_plan(write(tmp_path, arms=arms))], tmp_path)
    assert "differ from gamma number 0:" in text
    assert f"  gamma number 3: {GAMMA} 3.0" in text
    assert max(map(len, text.splitlines())) < 200


@pytest.mark.parametrize(
    ("seeds", "arms", "said"),
    [
        (
            1,
            2,
            "1 seed cannot decide which arm is better: every verdict will be undecided. 4 seeds",
        ),
        (1, 2, "One seed shows whether an arm trains"),
        (2, 2, "2 seeds cannot decide which arm is better"),
        (2, 2, "With 2, a difference would have to be 9.0 times its standard deviation"),
        (3, 2, "would have to be 2.5 times"),
        (2, 3, "would have to be 18.0 times"),
        (6, 2, "6 seeds and 1 arm beside the reference: a difference is found with a probability"),
        (6, 2, "80% if it is 1.4 times its standard deviation"),
        (3, 1, "One arm has nothing to be compared with."),
    ],
)
def test_what_the_seeds_can_decide_is_said(seeds, arms, said):
    assert said in dry_run.seeds_text(comparison(seeds, arms))


@pytest.mark.parametrize("n", [2, 3, 5, 6, 20])
def test_the_smallest_differences_are_those_of_the_test(n):
    pattern = np.linspace(-1, 1, n)
    pattern /= pattern.std(ddof=1)
    for factor, significant in ((0.99, False), (1.01, True)):
        shift = factor * smallest_significant(n)
        found = paired_difference(dict(enumerate(pattern + shift)), dict.fromkeys(range(n), 0.0))
        assert (found.t_p < 0.05) == significant
    assert float(paired_t_power(n, smallest_effect(n), 1.0)) == pytest.approx(0.8, abs=1e-6)


def test_time_is_estimated_for_the_runs_that_are_left(tmp_path, monkeypatch, capsys):
    def seconds(cfg):
        if cfg.MODEL.RETINANET.FOCAL_LOSS_GAMMA == 1.0:
            raise RuntimeError("out of\nmemory")
        return 0.5

    monkeypatch.setattr(run_command, "ArmCheck", lambda here: None)
    monkeypatch.setattr(run_command, "seconds_per_step", seconds)
    spec = write(tmp_path, arms={"FL": [], "g1": [GAMMA, 1]}, seeds=[1, 2, 3])
    command = ["run", str(spec), "--output", str(tmp_path / "out"), "--dry-run", "--time"]
    assert commands.focal_compare([*command, "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"FL +0\.500 +3 min +10 min", said)
    assert re.search(r"g1 +unknown: RuntimeError: out of memory", said)
    assert "In all 5 min at 2 runs at a time" in said


def test_a_dry_run_counts_the_trials_and_their_images_and_writes_nothing(
    tmp_path, tiny_shapes, monkeypatch, capsys
):
    monkeypatch.setattr(run_command, "ArmCheck", lambda here: None)
    tuned = {"loss_weights": {"factors": [1, 4, 10], "seeds": [7, 8, 9, 10]}}
    tuned["opts"] = ["DATASETS.TRAIN", [tiny_shapes.name]]
    spec = write(tmp_path, arms={"FL": [], "g1": [GAMMA, 1]}, seeds=2, **tuned)
    command = ["run", str(spec), "--output", str(tmp_path / "out"), "--dry-run"]
    assert commands.focal_compare(command) == 0
    said = capsys.readouterr().out
    assert "28 runs: 28 pending" in said
    assert "24 of the runs are trials: 3 settings of each arm with 4 seeds." in said
    assert "Trials of tiny_shapes train on 10 of its images, and test on the 2 others." in said
    assert "at its best setting, unless that is its own: up to 4 runs more." in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_few_steps_of_a_real_arm_are_timed(tmp_path, tiny_shapes):
    cfg = read_plan(write(tmp_path, arms={"FL": []})).configs["FL"].clone()
    cfg.merge_from_list(["SEED", 1, "MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", 1])
    cfg.merge_from_list(["DATASETS.TRAIN", (tiny_shapes.name,)])
    cfg.merge_from_list([part for pair in NARROW.items() for part in pair])
    assert 0 < run_command.seconds_per_step(cfg, warm_up=0, timed=1) < 60


def test_a_test_set_that_is_trained_on_is_mentioned(tmp_path):
    shapes = ["DATASETS.TEST", ["focal_shapes_train"]]
    same = read_plan(write(tmp_path, arms={"FL": []}, opts=shapes)).configs
    assert "focal_shapes_train is in DATASETS.TRAIN" in dry_run.trained_test_sets(same)
    other = read_plan(write(tmp_path, arms={"FL": []})).configs
    assert dry_run.trained_test_sets(other) == ""


@pytest.mark.parametrize("name", ["x" * 100_000, "y/" * 3_000])
def test_an_output_folder_that_cannot_exist_is_one_short_line(name, tmp_path, capsys):
    spec = write(tmp_path, arms={"FL": []})
    assert commands.focal_compare(["run", str(spec), "--output", name, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "--output" in error
    assert error.count("\n") == 1
    assert len(error) < 300


@pytest.mark.parametrize("name", ["x" * 100_000, "~nobody/x.yaml", "none.yaml", "a\tb"])
def test_a_spec_that_does_not_exist_is_one_short_line(name, capsys):
    assert commands.focal_compare(["run", name, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "no file and no shipped config is named" in error
    assert len(error) < 300


@pytest.mark.parametrize("error", [ValueError, KeyError, OSError])
def test_a_long_name_is_cut_in_every_message(error):
    message = commands.message_of(error(f"first {'x' * 100_000} last\nsecond"))
    assert message.startswith("first xxx")
    assert message.endswith("xxx last\nsecond")
    assert max(map(len, message.split("\n"))) <= commands.MAX_LINE
