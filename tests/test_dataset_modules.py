"""Datasets that a module of one's own registers, in every command that reads data."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

import focal_plugin_commands as commands
from focal_plugin import components
from focal_plugin.audit import proposal
from focal_plugin.compare.plan.arm_check import ArmCheck
from focal_plugin.compare.plan.spec import read_plan
from focal_plugin.engine.command_line import argument_parser, setup

from .conftest import ROOT

BASE = str(ROOT / "configs/Shapes-Detection/retinanet_small.yaml")
NAMES = ("pets_train", "pets_val")

# dicts without a json_file, as a reader of another format returns them
MODULE = """
import json
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

FOLDER = Path({folder!r})


def read():
    content = json.loads((FOLDER / "annotations.json").read_text())
    ids = sorted(category["id"] for category in content["categories"])
    images = {{
        x["id"]: {{
            "image_id": x["id"],
            "file_name": str(FOLDER / "images" / x["file_name"]),
            "height": x["height"],
            "width": x["width"],
            "annotations": [],
        }}
        for x in content["images"]
    }}
    for x in content["annotations"]:
        images[x["image_id"]]["annotations"].append({{
            "bbox": x["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": ids.index(x["category_id"]),
            "iscrowd": x["iscrowd"],
        }})
    return list(images.values())


for name in {names!r}:
    DatasetCatalog.register(name, read)
    MetadataCatalog.get(name).thing_classes = ["a", "b", "c", "d", "e"]
"""


@pytest.fixture(scope="module")
def module(tiny_shapes, tmp_path_factory):
    """A module that registers two datasets when it is imported; all tests import it once."""
    file = tmp_path_factory.mktemp("modules") / "pets_of_other_format.py"
    file.write_text(MODULE.format(folder=str(tiny_shapes), names=NAMES))
    yield str(file)
    components.imported[:] = [name for name in components.imported if name != str(file)]
    for name in {*NAMES} & {*DatasetCatalog.list()}:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def pair():
    return [part for name in NAMES for part in ("--dataset", name)]


def test_train_net_takes_their_names_and_a_pair_sets_both_keys(module, tmp_path):
    arguments = ["--config-file", BASE, "--import", module, *pair(), "OUTPUT_DIR", str(tmp_path)]
    cfg = setup(argument_parser().parse_args(arguments))
    assert (NAMES[:1], NAMES[1:]) == (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)


def test_a_name_that_is_not_used_is_refused_like_a_file(module, tmp_path):
    arguments = ["--config-file", BASE, "--import", module, "--dataset", NAMES[0]]
    with pytest.raises(ValueError, match=r"pets_train is registered but not used: DATASETS\.TRAIN"):
        setup(argument_parser().parse_args([*arguments, "OUTPUT_DIR", str(tmp_path)]))


@pytest.mark.parametrize("config", [[], ["--config-file", BASE]])
def test_check_data_reads_them_with_and_without_a_config(module, config, capsys):
    assert commands.focal_plugin(["check-data", *config, "--import", module, *pair()]) == 0
    said = capsys.readouterr().out
    assert all(f"{name}: 12 images" in said for name in NAMES)
    assert "Ready to train." in said


def test_a_spec_imports_them_for_every_run(module, tmp_path):
    opts = ["DATASETS.TRAIN", str(NAMES[:1]), "DATASETS.TEST", str(NAMES[1:])]
    spec = {"base": BASE, "arms": ["fl"], "seeds": 1, "imports": [module], "opts": opts}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    plan = read_plan(tmp_path / "spec.yaml", ArmCheck())
    (run,) = plan.comparison.runs
    assert run.imports == (module,)
    assert NAMES[1:] == plan.configs["fl"].DATASETS.TEST


def test_the_audit_reads_them(module, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(proposal, "FACTORS", (1.0,))
    arguments = ["audit", "--config-file", BASE, "--import", module, *pair()]
    assert commands.focal_plugin(arguments) in {0, 1}
    assert "pets_train" in capsys.readouterr().out


def test_a_name_that_no_module_registers_is_a_sentence(capsys):
    assert commands.focal_plugin(["check-data", "--dataset", "unknown_pets"]) == 2
    assert "a registered dataset is given by its name" in capsys.readouterr().err
