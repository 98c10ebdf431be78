"""Tests of comparisons on several datasets and of folds from the command line."""

import json
import re
import signal
from types import SimpleNamespace

import pytest

import focal_plugin_commands as commands
from focal_plugin.compare import plan_command, run_command
from focal_plugin.compare.analysis.power import recommend_seeds
from focal_plugin.compare.plan.collection import COLLECTION_FILE
from focal_plugin.compare.plan.design import Design
from focal_plugin.compare.running.runner import SweepInterruptedError
from focal_plugin.compare.runs.result import AVERAGES, Result
from focal_plugin.compare.runs.status import Status
from focal_plugin.pages.text import MINUS

from ..conftest import ROOT
from .fake_comparison import light_reports

BASE = str(ROOT / "configs" / "Shapes-Detection" / "retinanet_small.yaml")
NOISE = (0.5, -0.5, 0.4)


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    for command in (run_command, plan_command):
        monkeypatch.setattr(command, "ArmCheck", lambda here: None)
    monkeypatch.setattr(run_command, "audit_before", lambda plan, output: "")


@pytest.fixture
def light(monkeypatch):
    light_reports(monkeypatch)


@pytest.fixture
def trained(monkeypatch):
    """Replace training by results; FL is 5 AP higher than CE."""
    calls = []

    def train(runs, folder, options):
        new = [run for run in runs if not (folder / run.id / "result.json").exists()]
        calls.append((folder.name, [run.name for run in new]))
        for run in new:
            (folder / run.id).mkdir(parents=True, exist_ok=True)
            ap = 25.0 if run.arm == "CE" else 30.0 + NOISE[run.seed - 1]
            averages = {**dict.fromkeys(AVERAGES), "AP": ap}
            Result(run.arm, run.seed, averages, {}, 3, 0.1, 100.0, run.config_hash).write(
                folder / run.id
            )
        return [Status("done", attempts=1) for _ in runs]

    monkeypatch.setattr(run_command, "run_all", train)
    return calls


@pytest.fixture
def write(tmp_path):
    (tmp_path / "images").mkdir()
    box = {"bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0, "category_id": 1}
    for i in range(8):
        (tmp_path / "images" / f"{i}.png").write_bytes(bytes([i]))
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 8, "height": 8} for i in range(8)],
        "annotations": [{"id": i, "image_id": i, **box} for i in range(8)],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))

    def write(**more):
        spec = tmp_path / "spec.yaml"
        arms = {"CE": "ce", "FL": "fl"}
        spec.write_text(json.dumps({"base": BASE, "arms": arms, "seeds": 3, **more}))
        return spec

    return write


TWO = {name: {"train": "all.json:images", "test": "all.json:images"} for name in ("cells", "b & c")}
FOLDS = {"folds": 4, "datasets": {"mine": "all.json:images"}}


def compare(*arguments):
    return commands.focal_compare([str(argument) for argument in arguments])


def test_all_datasets_are_trained_and_judged_together(write, trained, tmp_path, capsys):
    output = tmp_path / "out"
    assert compare("run", write(datasets=TWO), "--output", output) == 0
    assert [len(names) for _, names in trained] == [6, 6]
    assert trained[0][0] == "cells"
    said, progress = capsys.readouterr()
    assert "cells:" in progress
    assert "b & c:" in progress
    assert "FL (+5.1 AP) is above CE, on average over 2 datasets." in said
    assert f"The report: {output}/report.html" in said
    for own in (output, output / "cells", output / trained[1][0]):
        assert (own / "report.html").is_file()
    content = json.loads((output / "report.json").read_text())
    (fl,) = content["equal"]
    assert (fl["decision"], fl["datasets"]) == ("higher", ["cells", "b & c"])
    # three seeds are too few for a verdict on one dataset
    one = json.loads((output / "cells/report.json").read_text())
    assert one["equal"]["verdicts"][0]["decision"] == "undecided"


def test_the_same_command_trains_nothing_again(light, write, trained, tmp_path):
    output, spec = tmp_path / "out", write(**FOLDS)
    assert compare("run", spec, "--output", output) == 0
    before = (output / "report.json").read_bytes()
    trained.clear()
    assert compare("run", spec, "--output", output) == 0
    assert [names for _, names in trained] == [[], [], [], []]
    assert (output / "report.json").read_bytes() == before


def test_a_dry_run_lists_the_runs_of_each_fold_and_writes_nothing(write, tmp_path, capsys):
    output = tmp_path / "out"
    assert compare("run", write(**FOLDS), "--output", output, "--dry-run") == 0
    said = capsys.readouterr().out
    for i in range(1, 5):
        assert f"fold-{i}:\n{output}/fold-{i}/CE-seed1-" in said
    assert said.count("MODEL.FOCAL.CLS_LOSS.NAME") == 1
    assert "3 seeds on each of 4" in said
    assert not output.exists()


def test_an_interrupted_sweep_can_be_reported(light, write, tmp_path, monkeypatch, capsys):
    def interrupted(runs, folder, options):
        raise SweepInterruptedError(signal.SIGINT)

    monkeypatch.setattr(run_command, "run_all", interrupted)
    output = tmp_path / "out"
    assert compare("run", write(datasets=TWO), "--output", output) == 130
    assert compare("report", output) == 0
    assert "No arm has a finished seed in common with CE yet." in capsys.readouterr().out
    assert compare("report", output, "--strict") == 3


def test_another_reference_is_that_of_all_datasets(light, write, trained, tmp_path, capsys):
    output = tmp_path / "out"
    compare("run", write(datasets=TWO), "--output", output)
    assert compare("report", output, "--reference", "FL") == 0
    said = capsys.readouterr().out
    assert f"CE ({MINUS}5.1 AP) is below FL, on average over 2 datasets." in said


def test_a_spec_that_returns_to_one_dataset_has_its_own_report(
    light, write, trained, tmp_path, capsys
):
    output = tmp_path / "out"
    compare("run", write(**FOLDS), "--output", output)
    assert (output / COLLECTION_FILE).is_file()
    capsys.readouterr()
    compare("run", write(opts=["DATASETS.TRAIN", ["focal_shapes_train"]]), "--output", output)
    assert not (output / COLLECTION_FILE).exists()
    assert "on average over" not in capsys.readouterr().out


def test_every_dataset_is_exported(light, write, trained, tmp_path, capsys):
    output, exported = tmp_path / "out", tmp_path / "exported"
    compare("run", write(datasets=TWO), "--output", output)
    capsys.readouterr()
    assert compare("export", output, "--to", "csv") == 0
    assert (output / "cells/export/csv/runs.csv").is_file()
    assert compare("export", output, "--to", "csv", "--out", exported) == 0
    assert capsys.readouterr().out.count("6 runs of spec: ") == 4
    assert (exported / "cells/runs.csv").is_file()


def test_a_design_over_datasets_takes_fewer_seeds_on_each(write, monkeypatch, capsys):
    def simulate(design, effects, std):  # the real one takes seconds
        return SimpleNamespace(found=[0.8], runs=2 * design.last)

    monkeypatch.setattr(plan_command, "simulate", simulate)
    monkeypatch.setattr(plan_command, "plan_looks", lambda *arguments: Design((4, 6, 8), 5.0))
    text = {}
    for name, more in (("one", {}), ("two", {"datasets": TWO})):
        assert compare("plan", write(**more), "--std", "4", "--effects", "5") == 0
        text[name] = capsys.readouterr().out
    seeds = {"one": recommend_seeds(4, 5).seeds, "two": recommend_seeds(4 / 2**0.5, 5).seeds}
    assert seeds["two"] < seeds["one"]
    assert re.search(rf"\n{seeds['one']} seeds +\d+% +{2 * seeds['one']} ", text["one"])
    assert re.search(rf"\n{seeds['two']} seeds +\d+% +{4 * seeds['two']} ", text["two"])
    assert "looks at" in text["one"]
    assert "looks at" not in text["two"]
    assert "the mean over 2 datasets" in text["two"]


def test_folds_cannot_be_planned(write, capsys):
    assert compare("plan", write(**FOLDS), "--std", "2") == 2
    assert "the spread between folds is known only after" in capsys.readouterr().err
