"""Tests of planned looks from the command line: what is trained, and when it stops."""

import json
import re

import pytest

import focal_plugin_commands as commands
from focal_plugin.compare import run_command
from focal_plugin.compare.plan.comparison import Comparison
from focal_plugin.compare.plan.design import Design
from focal_plugin.compare.runs.result import AVERAGES, Result
from focal_plugin.compare.runs.status import Status

from ..conftest import ROOT

BASE = ROOT / "configs" / "Shapes-Detection" / "retinanet_small.yaml"
LOOKS = {"looks": [4, 6, 8], "effect": 2.0}
# Differences to CE from seed to seed, around the mean of an arm
NOISE = (0.5, -0.5, 0.4, -0.3, 0.6, -0.6, 0.3, -0.4, 0.2, -0.2)
MEANS = {"CE": 0.0, "FL": 6.0, "GHM": 0.0, "OHEM": 1.9}


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    monkeypatch.setattr(run_command, "ArmCheck", lambda here: None)
    monkeypatch.setattr(run_command, "audit_before", lambda plan, output: "")


@pytest.fixture
def trained(monkeypatch):
    """Replace training by results; FL is clearly better, GHM equal, and OHEM hard to tell."""
    calls = []

    def train(runs, folder, options):
        new = [run for run in runs if not (folder / run.id / "result.json").exists()]
        calls.append([run.name for run in new])
        for run in new:
            (folder / run.id).mkdir(parents=True, exist_ok=True)
            size = 6.0 if run.arm == "OHEM" else 1.0
            noise = 0.0 if run.arm == "CE" else size * NOISE[run.seed - 1]
            averages = {**dict.fromkeys(AVERAGES), "AP": 25.0 + MEANS[run.arm] + noise}
            result = Result(run.arm, run.seed, averages, {}, 3, 0.1, 100.0, run.config_hash)
            result.write(folder / run.id)
        return [Status("done", attempts=1) for _ in runs]

    monkeypatch.setattr(run_command, "run_all", train)
    return calls


def write_spec(folder, arms=("CE", "FL", "GHM", "OHEM"), **more):
    named = {"CE": "ce", "FL": "fl", "GHM": "ghm", "OHEM": "ohem"}
    content = {"base": str(BASE), "arms": {arm: named[arm] for arm in arms}, **more}
    spec = folder / "spec.yaml"
    spec.write_text(json.dumps(content))
    return spec


def run(spec, output):
    return commands.focal_compare(["run", str(spec), "--output", str(output)])


def test_each_look_trains_only_the_open_arms(trained, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(write_spec(tmp_path, seeds=LOOKS), output) == 0
    first, second, third = trained
    assert len(first) == 16
    assert second == ["CE seed 5", "OHEM seed 5", "CE seed 6", "OHEM seed 6"]
    assert third == ["CE seed 7", "OHEM seed 7", "CE seed 8", "OHEM seed 8"]
    said, warned = capsys.readouterr()
    assert "Open after this look, so up to 6 seeds: OHEM" in warned
    assert "FL is 6.0 AP above CE" in said
    assert "GHM" in said
    assert "It stopped after 4 seeds, because a difference of 2 AP is out of its reach." in said
    comparison = Comparison.read(output)
    assert (comparison.design, len(comparison.runs)) == (Design((4, 6, 8), 2.0), 24)


def test_the_same_command_trains_nothing_again(trained, tmp_path):
    output = tmp_path / "out"
    spec = write_spec(tmp_path, seeds=LOOKS)
    run(spec, output)
    before = (output / "report.json").read_bytes(), (output / "comparison.json").read_bytes()
    trained.clear()
    assert run(spec, output) == 0
    assert all(not names for names in trained)
    assert (output / "report.json").read_bytes() == before[0]
    assert (output / "comparison.json").read_bytes() == before[1]


def test_an_arm_whose_config_changed_starts_again(trained, tmp_path):
    output = tmp_path / "out"
    run(write_spec(tmp_path, ("CE", "OHEM"), seeds=LOOKS), output)
    before = Comparison.read(output)
    trained.clear()
    spec = write_spec(tmp_path, ("CE", "OHEM"), seeds=LOOKS)
    content = json.loads(spec.read_text())
    content["arms"]["OHEM"] = {"arm": "ohem", "opts": ["MODEL.FOCAL.MINING.NUM_KEEP", 64]}
    spec.write_text(json.dumps(content))
    run(spec, output)
    assert trained[0] == [f"OHEM seed {seed}" for seed in (1, 2, 3, 4)]
    own = [r for r in Comparison.read(output).runs if r.arm == "OHEM"]
    assert len(own) == 8
    assert not {r.id for r in own} & {r.id for r in before.runs}


def test_a_dry_run_says_when_the_results_are_judged(tmp_path, capsys):
    spec = write_spec(tmp_path, seeds=LOOKS)
    arguments = ["run", str(spec), "--output", str(tmp_path / "out"), "--dry-run"]
    assert commands.focal_compare(arguments) == 0
    assert "are judged after 4, 6 and 8 seeds" in capsys.readouterr().out


def test_a_report_between_two_looks_keeps_the_verdicts_of_the_first(trained, tmp_path, capsys):
    output = tmp_path / "out"
    spec = write_spec(tmp_path, seeds=LOOKS)
    run(spec, output)
    for folder in output.glob("OHEM-seed[5-8]*"):
        (folder / "result.json").unlink()
    capsys.readouterr()
    commands.focal_compare(["report", str(output)])
    (ohem,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("OHEM is")]
    assert "(4 seeds, p" in ohem
    assert "undecided, within" in ohem


def test_seeds_that_are_added_after_the_results_are_marked(trained, tmp_path, capsys):
    output = tmp_path / "out"
    run(write_spec(tmp_path, ("CE", "OHEM"), seeds=6), output)
    capsys.readouterr()
    run(write_spec(tmp_path, ("CE", "OHEM"), seeds=8), output)
    said = capsys.readouterr().out
    assert "2 seeds came after a look at the results, so p is anytime-valid." in said
    assert Comparison.read(output).design == Design((6,))
    # and stay marked
    run(write_spec(tmp_path, ("CE", "OHEM"), seeds=10), output)
    assert "4 seeds came after a look at the results" in capsys.readouterr().out


def test_a_pilot_of_too_few_seeds_for_a_verdict_is_no_look(trained, tmp_path, capsys):
    output = tmp_path / "out"
    run(write_spec(tmp_path, ("CE", "OHEM"), seeds=2), output)
    run(write_spec(tmp_path, ("CE", "OHEM"), seeds=6), output)
    assert "came after a look" not in capsys.readouterr().out


def test_auto_plans_the_looks_from_earlier_comparisons_and_keeps_them(trained, tmp_path, capsys):
    runs = tmp_path / "runs"
    auto = write_spec(tmp_path, ("CE", "FL"), seeds="auto")
    assert run(auto, runs / "mine") == 2
    assert "no earlier comparison" in capsys.readouterr().err
    run(write_spec(tmp_path, ("CE", "FL"), seeds=6), runs / "earlier")
    capsys.readouterr()
    auto = write_spec(tmp_path, ("CE", "OHEM"), seeds="auto")
    assert run(auto, runs / "mine") == 0
    found = re.search(
        r"Looks after ([\d, ]+) seeds find 2 AP .*\(from earlier\)", capsys.readouterr().err
    )
    looks = tuple(map(int, found[1].split(",")))
    design = Comparison.read(runs / "mine").looks
    assert design.looks == looks
    # its own results do not change its plan
    (runs / "earlier" / "comparison.json").unlink()
    assert run(auto, runs / "mine") == 0
    assert Comparison.read(runs / "mine").looks == design


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ({"looks": []}, "looks must be a list"),
        ({"looks": [6, 4]}, "looks must increase"),
        ({"looks": [1, 4]}, "must be an integer >= 2"),
        ({"looks": [4, 6], "effect": 0}, "effect must be a number > 0"),
        ({"looks": [4, 6], "power": 1}, "power must be a number between 0 and 1"),
        ({"looks": [4, 6], "std": 1.0}, "require looks: auto"),
        ({"looks": "auto", "std": 1.0, "pilot": "."}, "choose one"),
        ({"looks": "auto", "pilot": "nowhere"}, "no folder"),
        ({"look": [4, 6]}, "did you mean 'looks'"),
    ],
)
def test_a_mistake_in_the_looks_is_named(seeds, message, tmp_path, capsys):
    assert run(write_spec(tmp_path, seeds=seeds), tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_tuning_and_looks_do_not_mix(tmp_path, capsys):
    tuned = {"factors": [0.5, 1], "seeds": [101]}
    spec = write_spec(tmp_path, seeds=LOOKS, learning_rates=tuned)
    assert run(spec, tmp_path / "out") == 2
    assert "requires a fixed number of seeds" in capsys.readouterr().err


@pytest.mark.parametrize("margin", [0, -1, "one", True])
def test_a_margin_is_a_positive_number(margin, tmp_path, capsys):
    assert run(write_spec(tmp_path, seeds=2, margin=margin), tmp_path / "out") == 2
    assert "margin must be a difference in AP > 0" in capsys.readouterr().err


def test_the_margin_reaches_the_report(trained, tmp_path, capsys):
    spec = write_spec(tmp_path, ("CE", "GHM"), seeds=8, margin=1.0)
    assert run(spec, tmp_path / "out") == 0
    assert "equivalent, a difference below 1 AP" in capsys.readouterr().out


# --- focal-compare plan


@pytest.fixture
def unchecked_plan(monkeypatch):
    from focal_plugin.compare import plan_command

    monkeypatch.setattr(plan_command, "ArmCheck", lambda here: None)


def test_plan_shows_what_each_design_finds_and_costs(unchecked_plan, tmp_path, capsys):
    spec = write_spec(tmp_path, seeds="auto")
    assert commands.focal_compare(["plan", str(spec), "--std", "1", "--effects", "2"]) == 0
    said = capsys.readouterr().out
    assert "3 arms beside CE" in said
    assert "To find a difference of 2 AP:" in said
    fixed = re.search(r"^(\d+) seeds .* (\d+)%", said, re.MULTILINE)
    assert int(fixed[2]) >= 80
    assert "looks at 4" in said


def test_plan_counts_the_trials(unchecked_plan, tiny_shapes, tmp_path, capsys):
    tuned = {"learning_rates": {"factors": [0.5, 1]}, "loss_weights": {"factors": [1, 4]}}
    tuned["opts"] = ["DATASETS.TRAIN", [tiny_shapes.name]]
    spec = write_spec(tmp_path, ("CE", "OHEM"), seeds=4, **tuned)
    assert commands.focal_compare(["plan", str(spec), "--std", "1", "--effects", "2"]) == 0
    assert "Tuning adds 24 trials to every design." in capsys.readouterr().out


def test_plan_takes_the_spread_and_the_hours_from_a_pilot(
    unchecked_plan, trained, tmp_path, capsys
):
    run(write_spec(tmp_path, ("CE", "OHEM"), seeds=4), tmp_path / "pilot")
    capsys.readouterr()
    spec = write_spec(tmp_path, ("CE", "OHEM"), seeds=1)
    arguments = ["plan", str(spec), "--pilot", str(tmp_path / "pilot"), "--effects", "4"]
    assert commands.focal_compare(arguments) == 0
    said = capsys.readouterr().out
    # 6 x the standard deviation of the first four of NOISE
    assert "standard deviation of 2.99 AP (from pilot)" in said
    assert "time, one arm differs" in said


def test_plan_needs_a_spread_and_two_arms(unchecked_plan, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert commands.focal_compare(["plan", str(write_spec(tmp_path, seeds=1))]) == 2
    assert "give it with --std" in capsys.readouterr().err
    alone = write_spec(tmp_path, ("CE",), seeds=1)
    assert commands.focal_compare(["plan", str(alone), "--std", "1"]) == 2
    assert "nothing to be compared with" in capsys.readouterr().err
