"""Tests of the command line of `focal-compare`."""

import json
import signal

import pytest

import focal_plugin_commands as commands
from focal_plugin.compare import run_command
from focal_plugin.compare.plan.comparison import Comparison
from focal_plugin.compare.running.runner import SweepInterruptedError
from focal_plugin.compare.runs.result import AVERAGES, Result
from focal_plugin.compare.runs.status import Status
from focal_plugin.data import parse_dataset_argument

from ..conftest import ROOT

CONFIGS = ROOT / "configs" / "Shapes-Detection"
LEARNING_RATES = {"factors": [0.5, 2]}


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Skip the check of the arms and the audit, which have tests of their own and read data."""
    monkeypatch.setattr(run_command, "ArmCheck", lambda here: None)
    monkeypatch.setattr(run_command, "audit_before", lambda plan, output: f"Red in {output}.")


def write_spec(folder, **more):
    base = f"{CONFIGS}/retinanet_small.yaml"
    arms = {"CE": {"config": base, "arm": "ce"}, "FL": base}
    spec = folder / "spec.yaml"
    spec.write_text(json.dumps({"arms": arms, "seeds": [1, 2], **more}))
    return spec


@pytest.fixture
def trained(monkeypatch):
    """Replace training by results; FL has a higher AP, and more at a higher learning rate."""
    calls = []

    def train(runs, folder, options):
        calls.append([run.name for run in runs])
        for run in runs:
            (folder / run.id).mkdir(parents=True, exist_ok=True)
            ap = 20.0 + run.seed + 5 * (run.arm == "FL") + run.setting.lr_factor * (run.arm == "FL")
            averages = {**dict.fromkeys(AVERAGES), "AP": ap}
            result = Result(run.arm, run.seed, averages, {}, 3, 0.1, 100.0, run.config_hash)
            result.write(folder / run.id)
        return [Status("done", attempts=1) for _ in runs]

    monkeypatch.setattr(run_command, "run_all", train)
    return calls


def test_run_trains_reports_and_says_where(trained, tmp_path, capsys):
    output = tmp_path / "out"
    assert commands.focal_compare(["run", str(write_spec(tmp_path)), "--output", str(output)]) == 0
    said, warned = capsys.readouterr()
    assert f"Red in {output}.\n" in warned
    assert str(output / "report.html") in said
    assert (output / "report.html").exists()
    assert "FL" in said
    assert trained == [["CE seed 1", "FL seed 1", "CE seed 2", "FL seed 2"]]


def test_trials_come_first_and_then_the_best_rate_of_each_arm(
    trained, tiny_shapes, tmp_path, capsys
):
    output = tmp_path / "out"
    opts = ["DATASETS.TRAIN", [tiny_shapes.name]]
    spec = write_spec(tmp_path, learning_rates=LEARNING_RATES, opts=opts)
    assert commands.focal_compare(["run", str(spec), "--output", str(output)]) == 0
    first, second = trained
    assert first[4:] == [
        f"{arm} lr x {factor} seed {seed}"
        for seed in (101, 102, 103)
        for arm in ("CE", "FL")
        for factor in ("0.5", "2")
    ]
    assert {name for name in second if name.startswith("FL")} == {
        "FL lr x 2 seed 1",
        "FL lr x 2 seed 2",
    }
    assert len(Comparison.read(output).of_role("best")) == len(second)
    trial = Comparison.read(output).of_role("tuning")[0]
    for dataset in map(parse_dataset_argument, trial.datasets_in(output)):
        assert json.loads(dataset.json_file.read_text())["images"]
        assert dataset.json_file.is_relative_to(output / "tuning")
    report = (output / "report.md").read_text()
    assert "### At each arm's best learning rate" in report
    # Seed 103 has the highest AP, of the trials, and seed 2 that of the other runs
    assert f"predict {output}/FL-seed2-" in capsys.readouterr().out


def test_a_run_that_failed_is_exit_code_1_with_its_reason(tmp_path, monkeypatch, capsys):
    failed = Status("failed", reason="loss became NaN")
    monkeypatch.setattr(run_command, "run_all", lambda runs, *_: [failed for _ in runs])
    arguments = ["run", str(write_spec(tmp_path)), "--output", str(tmp_path / "out")]
    assert commands.focal_compare(arguments) == 1
    assert "CE seed 1 failed: loss became NaN" in capsys.readouterr().err


def test_a_signal_sets_the_exit_code_and_a_hint_to_resume(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise SweepInterruptedError(signal.SIGTERM)

    monkeypatch.setattr(run_command, "run_all", interrupted)
    arguments = ["run", str(write_spec(tmp_path)), "--output", str(tmp_path / "out")]
    assert commands.focal_compare(arguments) == 143
    assert "the same command resumes" in capsys.readouterr().err


def test_a_dry_run_lists_the_runs_and_writes_nothing(tmp_path, capsys):
    output = tmp_path / "out"
    assert (
        commands.focal_compare(
            ["run", str(write_spec(tmp_path)), "--output", str(output), "--dry-run"]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert said.count("400 iterations") == 4
    assert "4 runs: 4 pending; 1600 iterations" in said
    assert not output.exists()


def test_runs_of_other_configs_are_named_and_unchanged(trained, tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "out")]
    spec = write_spec(tmp_path)
    assert commands.focal_compare(["run", str(spec), *arguments]) == 0
    for folder in (tmp_path / "out").glob("*-seed*"):
        Status("done", attempts=1).write(folder)
    capsys.readouterr()
    spec = write_spec(tmp_path, opts=["SOLVER.BASE_LR", 0.01])
    assert commands.focal_compare(["run", str(spec), *arguments]) == 0
    assert "4 run(s) of other configs, which are not changed" in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("*-seed*"))) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.yaml"], "none.yaml"),
        (["report", "nowhere"], "holds no comparison"),
        (["explain", "SigmoidFocalLos"], "did you mean 'SigmoidFocalLoss'"),
    ],
)
def test_a_mistake_is_exit_code_2_and_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert commands.focal_compare(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_parameters_of_slurm_are_yaml_and_others_an_error(tmp_path, monkeypatch, capsys):
    seen = []

    def train(runs, _, options):
        seen.append(options)
        return [Status("failed", reason="not trained") for _ in runs]

    monkeypatch.setattr(run_command, "run_all", train)
    arguments = ["run", str(write_spec(tmp_path)), "--output", str(tmp_path / "out")]
    commands.focal_compare(
        [*arguments, "--engine", "slurm", "--slurm", "slurm_partition=gpu", "timeout_min=240"]
    )
    assert seen[0].slurm == {"slurm_partition": "gpu", "timeout_min": 240}
    assert commands.focal_compare([*arguments, "--slurm", "partition"]) == 2
    assert "KEY=VALUE" in capsys.readouterr().err


def test_every_command_has_help(capsys):
    for arguments, example in (
        (["--help"], "focal-compare explain"),
        (["run", "--help"], "reference: CE"),
        (["report", "--help"], "--strict"),
        (["explain", "--help"], "NAME[:option=value"),
    ):
        with pytest.raises(SystemExit):
            commands.focal_compare(arguments)
        assert example in capsys.readouterr().out
