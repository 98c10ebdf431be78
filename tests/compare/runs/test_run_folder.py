"""Tests of the files of a run: config, start and environment."""

import json
import time

import pytest
import yaml
from detectron2.config import CfgNode

from focal_plugin import get_cfg
from focal_plugin.compare.analysis.fairness import config_differences
from focal_plugin.compare.plan.comparison import Run
from focal_plugin.compare.runs import run_folder
from focal_plugin.compare.runs.environment import Environment
from focal_plugin.compare.runs.run_folder import RunFolder, read_config
from focal_plugin.compare.runs.start import Start, TensorDigest
from focal_plugin.compare.runs.status import Status, StatusReader
from focal_plugin.json_file import DamagedFileError

from ...conftest import ROOT

RUN = Run("CE", 1, "/config.yaml", (), (), "f" * 64, 3)


def resolved(*opts):
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/Shapes-Detection/retinanet_small.yaml"))
    cfg.merge_from_list(list(opts))
    return cfg


def test_an_empty_folder_is_a_pending_run_without_files(tmp_path):
    folder = RunFolder.read(RUN, tmp_path / "missing")
    assert (folder.state, folder.result, folder.metrics) == ("pending", None, [])
    assert folder.environment is folder.start is folder.config is folder.detections is None
    assert folder.snapshots("start") == []
    assert not folder.detected_nothing()
    assert folder.damage == ()


SMALL_FILES = {
    "status.json": '{"state": "failed", "reason": "a"}',
    "result.json": '{"arm": "CE", "seed": 1, "ap": {"AP": 1.0}, "ap_per_class": {}, '
    '"iterations": 3, "iteration_s": 0.1, "peak_memory_mib": 1, "config_hash": "f"}',
    "env.json": '{"datasets": {"test": [{"name": "a", "classes": ["x"]}]}}',
    "start.json": '{"weights": {"conv": {"shape": [2], "sha256": "1"}}, "data": ["d0"]}',
    "metrics.json": '{"iteration": 2, "time": 0.1}\n',
    "config.yaml": "SOLVER: {A: 1}",
}

DAMAGES = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-2] + b"\n"),
    "binary": lambda file: file.write_bytes(bytes(range(256))),
    "empty": lambda file: file.write_bytes(b""),
    "list": lambda file: file.write_text("[1]\n"),
    "deep": lambda file: file.write_text("[" * 100_000 + "\n"),
    "folder": lambda file: (file.unlink(), file.mkdir()),
}


def write_small_files(folder):
    for name, text in SMALL_FILES.items():
        (folder / name).write_text(text)
    (folder / "inference").mkdir()
    (folder / "inference" / "coco_instances_results.json").write_text("[]")


def test_whole_files_are_no_damage(tmp_path):
    write_small_files(tmp_path)
    folder = RunFolder.read(RUN, tmp_path)
    assert (folder.state, folder.damage) == ("done", ())


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path, name, damage):
    write_small_files(tmp_path)
    DAMAGES[damage](tmp_path / name)
    folder = RunFolder.read(RUN, tmp_path)
    said = [folder.status.reason] if name == "result.json" else folder.damage
    (sentence,) = said
    assert str(tmp_path / name) in sentence
    assert folder.state == ("failed" if name == "result.json" else "done")
    read = {"env.json": folder.environment, "start.json": folder.start}
    read |= {"metrics.json": folder.metrics, "config.yaml": folder.config}
    for other, content in read.items():
        assert bool(content) == (other != name)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_with_a_damaged_status_has_failed_until_it_has_a_result(tmp_path, damage):
    (tmp_path / "status.json").write_text('{"state": "running", "attempts": 2}')
    DAMAGES[damage](tmp_path / "status.json")
    status = Status.read(tmp_path)
    assert status.state == "failed"
    assert f"{tmp_path / 'status.json'} is damaged" in status.reason
    assert "Delete status.json" in status.reason
    (tmp_path / "result.json").write_text(SMALL_FILES["result.json"])
    assert Status.read(tmp_path) == Status("done")


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("status.json", '{"state": "finished"}', "state must be one of pending, "),
        ("status.json", '{"attempts": "2"}', "attempts must be an integer, got '2'"),
        ("status.json", '{"log_tail": "abc"}', "log_tail must be a list, got 'abc'"),
        ("status.json", '{"reason": "\\ud800"}', "reason must be text"),
        ("result.json", "{}", "arm is missing"),
        ("env.json", '{"threads": true}', "threads must be an integer, got True"),
        ("env.json", '{"git": {"commit": 1}}', "git.commit must be text, got 1"),
        ("env.json", '{"datasets": {"test": [{}]}}', "datasets.test[0].name is missing"),
        (
            "env.json",
            '{"datasets": {"train": [{"name": "a", "classes": ["x"], '
            '"annotations_per_class": [1, 2]}]}}',
            "annotations_per_class of a must have one entry per class",
        ),
        ("start.json", '{"weights": {"a": 1}, "data": []}', "weights.a must be an object, got 1"),
        ("config.yaml", "SOLVER: {A: 2020-01-01}", "it is no config"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_place(tmp_path, name, text, fault):
    (tmp_path / name).write_text(text)
    folder = RunFolder.read(RUN, tmp_path)
    (sentence,) = (*folder.damage, *filter(None, [folder.status.reason]))
    assert sentence.startswith(f"{tmp_path / name} is damaged: ")
    assert fault in sentence


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "1" + 400 * "0"])
def test_a_number_that_is_not_finite_is_damage(tmp_path, number):
    text = SMALL_FILES["result.json"].replace('"iteration_s": 0.1', f'"iteration_s": {number}')
    (tmp_path / "result.json").write_text(text)
    assert "iteration_s must be a finite number" in Status.read(tmp_path).reason


def test_a_file_is_read_once(tmp_path):
    (tmp_path / "env.json").write_text(json.dumps({"threads": 1}))
    folder = RunFolder.read(RUN, tmp_path)
    assert folder.environment.threads == 1
    (tmp_path / "env.json").unlink()
    assert folder.environment.threads == 1


def test_an_environment_has_none_for_what_was_not_recorded(tmp_path):
    data = {"name": "a", "classes": ["x"], "of_tomorrow": 1}
    (tmp_path / "env.json").write_text(json.dumps({"datasets": {"test": [data]}}))
    found = Environment.read(tmp_path)
    assert (found.git, found.device, found.versions, found.train) == (None, None, {}, ())
    assert (found.test[0].name, found.test[0].classes, found.test[0].images) == ("a", ("x",), None)


def test_a_run_that_did_not_start_has_no_start(tmp_path):
    assert Start.read(tmp_path) is None
    content = {"weights": {"conv": {"shape": [2, 3], "sha256": "1"}}, "data": ["d0", "d1"]}
    (tmp_path / "start.json").write_text(json.dumps(content))
    assert Start.read(tmp_path) == Start({"conv": TensorDigest((2, 3), "1")}, ("d0", "d1"))


def test_a_result_without_its_status_is_done(tmp_path):
    assert Status.read(tmp_path) == Status()
    Status("running", attempts=2).write(tmp_path)
    assert Status.read(tmp_path).state == "running"
    (tmp_path / "result.json").write_text(SMALL_FILES["result.json"])
    assert Status.read(tmp_path) == Status("done", attempts=2)


def test_a_run_whose_result_was_deleted_is_pending(tmp_path):
    Status("done", attempts=2).write(tmp_path)
    assert Status.read(tmp_path) == Status("pending", attempts=2)


def test_a_reader_sees_each_change_and_reads_nothing_without_one(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    reader = StatusReader(folder)
    assert reader.read() == Status()
    folder.mkdir()
    for attempts in range(1, 9):  # of equal size, and often with the file number of the one before
        Status("running", attempts=attempts).write(folder)
        assert reader.read() == Status("running", attempts=attempts)
    write_small_files(folder)
    assert reader.read() == Status.read(folder) == Status("done")
    monkeypatch.setattr(Status, "read", None)
    assert reader.read() == Status("done")


def test_a_saved_config_reads_back_as_it_was(tmp_path):
    file = tmp_path / "config.yaml"
    cfg = resolved("SOLVER.STEPS", "(3, 5)", "SOLVER.BASE_LR", 1e-7)
    file.write_text(cfg.dump())
    assert config_differences({"saved": read_config(file), "resolved": cfg}) == []


def test_a_saved_config_may_have_keys_of_another_version(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("SOLVER: {BASE_LR: 0.1, OF_TOMORROW: 3}")
    assert read_config(file).SOLVER.OF_TOMORROW == 3


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.getcwd []", "a: !!python/tuple [1]", "a: [", "", "[1]"]
)
def test_a_malformed_config_is_an_error_that_names_the_file(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        read_config(file)


@pytest.mark.parametrize("folder", ["runs/a", "'a folder with spaces\n  on two lines'", "[1,\n2]"])
def test_runs_of_an_arm_share_all_but_seed_and_folder(tmp_path, folder):
    found = []
    for seed in (1, 2):
        file = tmp_path / f"{seed}.yaml"
        text = f"MODEL: {{A: 1}}\nOUTPUT_DIR: {folder}\nSEED: {seed}\nSOLVER:\n  BASE_LR: .5\n"
        file.write_text(text)
        found.append(read_config(file))
        assert found[-1] == CfgNode(yaml.safe_load(text))
    if folder == "runs/a":
        assert found[0].SOLVER is found[1].SOLVER
    assert [config.SEED for config in found] == [1, 2]


def test_the_aliases_of_detectron2_are_read_by_the_fast_loader(tmp_path, monkeypatch):
    config = get_cfg()
    text = config.dump()
    assert text.count("*") == 2
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.setattr(run_folder, "load", None)
    found = read_config(tmp_path / "config.yaml")
    assert found.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS == [10.0, 10.0, 5.0, 5.0]
    assert yaml.safe_load(found.dump()) == yaml.safe_load(text)


def test_a_config_with_an_alias_to_itself_is_damaged(tmp_path):
    (tmp_path / "config.yaml").write_text("A: &a {B: *a}\n")
    with pytest.raises(DamagedFileError, match="leads back to itself"):
        read_config(tmp_path / "config.yaml")


def test_a_config_whose_aliases_stand_for_gigabytes_is_refused_within_a_second(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    file = tmp_path / "config.yaml"
    file.write_text("\n".join(lines))
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"config\.yaml .* more than 100000 values"):
        read_config(file)
    assert time.monotonic() - start < 1
    file.write_text("\n".join(lines[:2]))
    assert read_config(file).a1 == [[1] * 9] * 9


def test_detectron2_writes_no_tag_that_the_safe_loader_refuses():
    assert "!!" not in resolved().dump()
    assert isinstance(yaml.safe_load(resolved().dump())["SOLVER"]["STEPS"], list)
