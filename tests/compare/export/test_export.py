"""focal-compare export: the same runs in every target."""

import csv
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

import focal_plugin_commands as commands
from focal_plugin.compare.export.content import read_exported
from focal_plugin.compare.export.targets import TARGETS, open_target
from focal_plugin_commands import compare

from ...conftest import ROOT
from ..fake_comparison import FakeArm, write_comparison
from .fakes import FakeMlflow, FakeTrackio, FakeWandb

METRICS = [
    {"iteration": 19, "total_loss": 2.5, "lr": 0.1},
    {"iteration": 39, "total_loss": 1.5, "bbox/AP-a: b": float("nan")},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A comparison of which one run failed, with a name that no target accepts as it is."""
    folder = tmp_path_factory.mktemp("runs")
    arms = {"CE": FakeArm(), "=FL": FakeArm(without={2: "failed"})}
    comparison = write_comparison(folder, arms)
    plan = json.loads((folder / "comparison.json").read_text())
    (folder / "comparison.json").write_text(json.dumps({**plan, "name": "my cells: 1"}))
    for run in comparison.runs:
        lines = "\n".join(map(json.dumps, METRICS))
        (folder / run.id / "metrics.json").write_text(f"{lines}\n")
    file = folder / comparison.runs[0].id / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "ap_per_class": {"a: b": 12.5}}))
    return folder


@pytest.fixture(scope="module")
def exported(folder):
    return read_exported(folder)


def rows(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_finished_runs_are_read_with_what_they_logged(exported):
    assert exported.name == "my cells: 1"
    assert (len(exported.runs), exported.planned) == (3, 4)
    run = exported.runs[0]
    assert run.labels == {
        "arm": "CE",
        "seed": 1,
        "role": "equal",
        "lr_factor": 1.0,
        "weight_factor": 1.0,
    }
    assert run.metrics == {19: {"total_loss": 2.5, "lr": 0.1}, 39: {"total_loss": 1.5}}
    assert run.final["AP"] > 0
    assert run.final["AP-a: b"] == 12.5
    header, verdict = exported.verdicts
    assert dict(zip(header, verdict, strict=True))["arm"] == "=FL"


def test_without_a_finished_run_there_is_nothing_to_export(tmp_path, capsys):
    write_comparison(tmp_path, {"CE": FakeArm(without={1: "missing", 2: "failed"})})
    assert commands.focal_compare(["export", str(tmp_path), "--to", "csv"]) == 2
    assert "no run of" in capsys.readouterr().err
    assert commands.focal_compare(["export", str(tmp_path / "x"), "--to", "csv"]) == 2
    assert not (tmp_path / "export").exists()


def test_csv_has_a_table_for_runs_metrics_configs_and_verdicts(folder, capsys):
    assert commands.focal_compare(["export", str(folder), "--to", "csv"]) == 0
    said = capsys.readouterr().out
    assert "3 runs of my cells: 1 exported; 1 not done" in said
    out = folder / "export" / "csv"
    runs = {row["id"]: row for row in rows(out / "runs.csv")}
    assert [row["arm"] for row in runs.values()] == ["CE", "'=FL", "CE"]  # no formula
    result = json.loads((folder / next(iter(runs)) / "result.json").read_text())
    assert float(next(iter(runs.values()))["AP"]) == result["ap"]["AP"]
    metrics = rows(out / "metrics.csv")
    assert [(row["id"], row["iteration"]) for row in metrics[:2]] == [
        (next(iter(runs)), "19"),
        (next(iter(runs)), "39"),
    ]
    assert (metrics[0]["total_loss"], metrics[1]["lr"]) == ("2.5", "")
    assert {row["key"] for row in rows(out / "config.csv")} >= {"SOLVER.BASE_LR"}
    assert rows(out / "verdicts.csv")[0]["reference"] == "CE"


def test_wandb_gets_each_run_once_with_an_id_of_its_own(exported, tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    said = open_target("wandb")(exported, tmp_path)
    assert "wandb sync" in said
    *runs, verdicts = fake.runs
    assert [run.options["id"] for run in runs] == [run.id for run in exported.runs]
    assert {run.options["project"] for run in fake.runs} == {"my_cells_1"}
    assert runs[0].lines == [(19, {"total_loss": 2.5, "lr": 0.1}), (39, {"total_loss": 1.5})]
    assert runs[0].summary["final/AP"] == exported.runs[0].final["AP"]
    assert runs[0].options["config"]["arm"] == "CE"
    assert verdicts.lines[0][1]["verdicts"][0] == list(exported.verdicts[0])
    assert all(run.finished for run in fake.runs)

    monkeypatch.setattr(fake, "runs", [])
    (tmp_path / "wandb" / "offline-run-1-my_cells_1-verdicts").rmdir()
    open_target("wandb")(exported, tmp_path)
    assert [run.options["name"] for run in fake.runs] == ["verdicts"]


def test_a_refusal_of_a_target_is_a_sentence(folder, tmp_path, monkeypatch, capsys):
    fake = FakeWandb()

    def refuse(**_):
        raise fake.errors.Error("no API key")

    monkeypatch.setattr(fake, "init", refuse)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    arguments = ["export", str(folder), "--to", "wandb", "--out", str(tmp_path)]
    assert commands.focal_compare(arguments) == 2
    assert capsys.readouterr().err == "focal-compare: wandb: no API key\n"


def test_mlflow_gets_each_run_once_within_its_limits(exported, tmp_path, monkeypatch):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for _ in range(2):
        said = open_target("mlflow")(exported, tmp_path)
    ((uri, store),) = fake.stores.items()
    assert uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert uri in said
    assert store.experiments["my cells: 1"][1] == (tmp_path / "artifacts").as_uri()
    *runs, verdicts = store.runs
    assert [run["name"] for run in runs] == [run.name for run in exported.runs]
    assert runs[0]["metrics"][:2] == [("total_loss", 2.5, 19), ("lr", 0.1, 19)]
    assert ("final/AP", exported.runs[0].final["AP"], 39) in runs[0]["metrics"]
    assert dict(runs[0]["params"])["SOLVER.BASE_LR"]
    assert runs[0]["ended"] == 1
    assert verdicts["texts"]["verdicts.csv"].startswith("settings,arm")


def test_mlflow_uses_the_server_of_the_environment(exported, tmp_path, monkeypatch):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    open_target("mlflow")(exported, tmp_path / "out")
    ((uri, store),) = fake.stores.items()
    assert uri == "http://tracking:5000"
    assert store.experiments["my cells: 1"][1] is None
    assert not (tmp_path / "out").exists()


def test_trackio_gets_each_run_once(exported, tmp_path, monkeypatch):
    fake = FakeTrackio()
    pandas = ModuleType("pandas")
    pandas.DataFrame = lambda rows, columns: SimpleNamespace(rows=rows, columns=columns)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    for _ in range(2):
        said = open_target("trackio")(exported, tmp_path / "unused")
    assert f"TRACKIO_DIR={tmp_path} trackio show" in said
    assert [name for _, name in fake.runs] == [*(run.id for run in exported.runs), "verdicts"]
    options, lines = fake.runs["my_cells_1", exported.runs[0].id]
    assert options["config"]["seed"] == 1
    assert [step for step, _ in lines] == [19, 39, 39]
    assert lines[-1][1]["final/AP"] == exported.runs[0].final["AP"]


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "csv"])
def test_a_missing_package_is_a_sentence_with_the_command(target, folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, target, None)
    monkeypatch.setenv("TRACKIO_DIR", "unused")
    out = folder / "nothing"
    arguments = ["export", str(folder), "--to", target, "--out", str(out)]
    assert commands.focal_compare(arguments) == 2
    assert f"{target} is not installed: pip install 'focal_plugin[{target}]'" in (
        capsys.readouterr().err
    )
    assert not out.exists()


def test_every_target_has_a_choice_a_module_and_an_extra():
    assert compare.TARGETS == TARGETS
    project = (ROOT / "pyproject.toml").read_text()
    for name in TARGETS:
        assert callable(open_target(name))
        assert name == "csv" or f'\n{name} = ["{name}"]\n' in project
