"""focal-plugin init: two files from images, and the errors before that."""

import json
import shutil

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

import focal_plugin_commands as commands
from focal_plugin import get_cfg
from focal_plugin.compare.plan.spec import read_plan
from focal_plugin.init import design, init_command
from focal_plugin.init.design import ARMS
from focal_plugin.init.machine import Machine
from focal_plugin_commands import plugin

NO_PROPOSAL = {"before": {"recall": 1.0}, "after": None, "opts": [], "cost": 1.0}


@pytest.fixture(scope="module")
def data(tiny_shapes, tmp_path_factory):
    """A folder with all.json, fields of its own in it, and images."""
    folder = tmp_path_factory.mktemp("init")
    shutil.copytree(tiny_shapes / "images", folder / "images")
    content = json.loads((tiny_shapes / "annotations.json").read_text())
    (folder / "all.json").write_text(json.dumps({**content, "licenses": [{"id": 9}]}))
    return folder


def machine_with(jobs):
    return Machine(jobs or 1, 2, "cpu", 2.0**34)


@pytest.fixture(scope="module")
def costs():
    """Set the time and memory of a step and an image, instead of measuring them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(design, "bytes_per_image", lambda cfg: 2**24)
        patch.setattr(design, "seconds_per_step", lambda cfg, **_: 0.3)
        patch.setattr(design, "seconds_per_test_image", lambda cfg: 0.02)
        patch.setattr(init_command, "this_machine", machine_with)
        patch.setattr(init_command, "busy_processors", lambda: 0.9)
        yield


def init(name, *arguments):
    return commands.focal_plugin(["init", str(name), *map(str, arguments)])


@pytest.fixture(scope="module")
def written(data, costs):
    """The folder of one init that splits."""
    before = DatasetCatalog.list()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data)
        assert init("cells", "--train", "all.json:images", "--seeds", 2) == 0
    assert DatasetCatalog.list() == before
    return data / "cells"


def test_four_files_and_nothing_else_are_written(written):
    names = {"base.yaml", "compare.yaml", "train.json", "val.json"}
    assert {file.name for file in written.iterdir()} == names
    assert {file.name for file in written.parent.iterdir()} == {"all.json", "images", "cells"}


def test_the_comparison_passes_a_dry_run_after_the_folder_has_moved(written, tmp_path):
    for name in ("cells", "images"):
        shutil.copytree(written.parent / name, tmp_path / name)
    plan = read_plan(tmp_path / "cells" / "compare.yaml")
    comparison = plan.comparison
    assert comparison.name == "cells"
    assert comparison.arms == ARMS
    assert (comparison.reference, comparison.seeds) == ("ce", (1, 2))
    for arm, cfg in plan.configs.items():
        assert cfg.DATASETS.TRAIN == ("cells_train",), arm
        assert len(cfg.MODEL.FOCAL.CLASS_NAMES) == 5
        assert cfg.MODEL.RETINANET.SCORE_THRESH_TEST == 0.001
        assert comparison.runs[0].iterations == cfg.SOLVER.MAX_ITER
        assert 0 < cfg.SOLVER.WARMUP_ITERS < cfg.SOLVER.STEPS[0] < cfg.SOLVER.MAX_ITER
        assert pytest.approx(0.05 * cfg.SOLVER.IMS_PER_BATCH / 16) == cfg.SOLVER.BASE_LR


def test_the_runs_fit_the_budget(written):
    (iterations,) = {run.iterations for run in read_plan(written / "compare.yaml").comparison.runs}
    spec = yaml.safe_load((written / "compare.yaml").read_text())
    assert spec["budget"] == {"iterations": iterations, "total_iterations": 14 * iterations}
    assert 14 * iterations * 0.3 < 7200


def test_every_key_of_the_files_has_a_comment(written):
    for name in ("base.yaml", "compare.yaml"):
        lines = (written / name).read_text().splitlines()
        for line, above in zip(lines[1:], lines, strict=False):
            is_node = line.rstrip().endswith(":") or line.lstrip().startswith("#")
            assert is_node or "  # " in line or above.lstrip().startswith("# "), line


def test_the_parts_keep_the_other_fields_of_the_file(written):
    whole = json.loads((written.parent / "all.json").read_text())
    parts = [json.loads((written / f"{name}.json").read_text()) for name in ("train", "val")]
    for part in parts:
        assert part["licenses"] == [{"id": 9}]
        assert part["categories"] == whole["categories"]
    assert sum(len(part["images"]) for part in parts) == len(whole["images"])


def test_the_base_is_a_config_of_its_own(written):
    cfg = get_cfg()
    cfg.merge_from_file(str(written / "base.yaml"))
    assert cfg.MODEL.META_ARCHITECTURE == "FocalRetinaNet"


@pytest.fixture
def cheap(costs, monkeypatch):
    """Leave out the search of anchors and the building of every arm."""
    monkeypatch.setattr(design, "propose_anchors", lambda *_, **__: NO_PROPOSAL)
    monkeypatch.setattr(init_command, "ArmCheck", lambda: None)


def test_datasets_that_a_module_registers_can_be_named(data, cheap, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets_data.py").write_text(
        "from detectron2.data.datasets import register_coco_instances\n"
        f"for name in ('pets_a', 'pets_b'):\n"
        f"    register_coco_instances(name, {{}}, {str(data / 'all.json')!r}, "
        f"{str(data / 'images')!r})\n"
    )
    try:
        arguments = ["--train", "pets_a", "--val", "pets_b", "--import", "pets_data.py"]
        assert init("pets", *arguments, "--seeds", 1) == 0
        spec = yaml.safe_load((tmp_path / "pets/compare.yaml").read_text())
        assert spec["imports"] == ["../pets_data.py"]
        assert "datasets" not in spec
        plan = read_plan(tmp_path / "pets/compare.yaml")
        assert plan.configs["fl"].DATASETS.TEST == ("pets_b",)
    finally:
        for name in {"pets_a", "pets_b"} & {*DatasetCatalog.list()}:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    said = capsys.readouterr().out
    assert said.endswith("Next: focal-compare run pets/compare.yaml\n")


def test_what_was_decided_is_told_in_a_dozen_lines(data, cheap, tmp_path, capsys):
    files = f"{data / 'all.json'}:{data / 'images'}"
    options = ["--input-size", 96, "--jobs", 2]
    assert init(tmp_path / "x", "--train", files, "--val", files, *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"Next: focal-compare run {tmp_path}/x/compare.yaml --jobs 2"
    assert len(lines) < 20
    text = "\n".join(lines)
    for word in ("96 px", "12 training and 12 validation images", "learning rate", "iterations"):
        assert word in text
    assert "MIN_SIZE_TEST: 96" in (tmp_path / "x/base.yaml").read_text()


def test_red_sentences_of_the_audit_are_shown(data, cheap, tmp_path, capsys, monkeypatch):
    class Audit:
        red = (type("Sentence", (), {"text": "All anchors are too large."}),)

    monkeypatch.setattr(init_command, "audit_config", lambda *_, **__: Audit)
    files = f"{data / 'all.json'}:{data / 'images'}"
    assert init(tmp_path / "x", "--train", files, "--val", files) == 0
    assert "All anchors are too large." in capsys.readouterr().out


def without_objects(data):
    content = json.loads((data / "all.json").read_text())
    (data / "none.json").write_text(json.dumps({**content, "annotations": []}))
    return "none.json"


def with_a_negative_box(data):
    content = json.loads((data / "all.json").read_text())
    content["annotations"][0]["bbox"][2] = -5
    (data / "bad.json").write_text(json.dumps(content))
    return "bad.json"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--train", "no.json:images"], 2, "--train: there is no file 'no.json'"),
        (["--train", "all.json:no"], 2, "--train: there is no folder 'no'"),
        (["--train", "all.json"], 2, "--train must be JSON:IMAGES, or the name of a dataset"),
        (["--train", "unknown"], 2, "--train: no dataset is named 'unknown'"),
        (["--train", "tiny_shapes"], 2, "tiny_shapes is registered, and only a file can be split"),
        (["--train", "all.json:images", "--budget", "1m"], 2, "--budget 1m is too small: 42 runs"),
        (["--train", "all.json:images", "--budget", "soon"], 2, "30m, 2h or 1h30m"),
        (["--train", "all.json:images", "--seeds", "0"], 2, "--seeds must be from 1 to"),
        (["--train", "all.json:images", "--input-size", "5"], 2, "--input-size must be from 32"),
        (without_objects, 1, "none.json has no objects"),
        (with_a_negative_box, 1, "error box-negative (1)"),
    ],
)
def test_a_mistake_is_a_sentence_and_leaves_nothing(
    arguments, code, said, data, cheap, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(data)
    if callable(arguments):
        arguments = ["--train", f"{arguments(data)}:images"]
    assert init(tmp_path / "x", *arguments) == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_exists_is_not_written_over(kind, tmp_path, capsys):
    target = tmp_path / "x"
    target.mkdir() if kind == "folder" else target.write_text("mine")
    assert init(target, "--train", "a:b") == 2
    assert "x exists; choose another NAME" in capsys.readouterr().err


def test_the_help_parses():
    parser = plugin._parser()
    args = parser.parse_args(["init", "x", "--train", "a:b"])
    assert (args.budget, args.size, args.seeds) == ("2h", "small", 6)


def test_a_busy_machine_and_few_seeds_are_told(data, cheap, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(init_command, "busy_processors", lambda: 1.7)
    files = f"{data / 'all.json'}:{data / 'images'}"
    assert init(tmp_path / "y", "--train", files, "--val", files, "--seeds", 2) == 0
    said = capsys.readouterr()
    assert "WARNING: 1.7 processors were busy before" in said.err
    assert "2 of each arm: a first look; a verdict needs 4" in said.out
