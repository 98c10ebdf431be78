"""Tests of the files of a run: config, start and environment."""

import json

import pytest
import yaml

from focal_plugin import get_cfg
from focal_plugin.compare.analysis.fairness import config_differences
from focal_plugin.compare.plan.comparison import Run
from focal_plugin.compare.runs.environment import Environment
from focal_plugin.compare.runs.run_folder import RunFolder, read_config
from focal_plugin.compare.runs.start import Start, TensorDigest
from focal_plugin.compare.runs.status import Status

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


def test_a_broken_file_is_none(tmp_path):
    for name in ("env.json", "start.json", "config.yaml"):
        (tmp_path / name).write_text("[")
    folder = RunFolder.read(RUN, tmp_path)
    assert folder.environment is folder.start is folder.config is None


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
    assert (found.commit, found.device, found.versions, found.train) == (None, None, {}, ())
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
    (tmp_path / "result.json").write_text("{}")
    assert Status.read(tmp_path) == Status("done", attempts=2)


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


def test_detectron2_writes_no_tag_that_the_safe_loader_refuses():
    assert "!!" not in resolved().dump()
    assert isinstance(yaml.safe_load(resolved().dump())["SOLVER"]["STEPS"], list)
