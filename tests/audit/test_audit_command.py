"""Tests of the command `focal-plugin audit`."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from focal_plugin_commands import focal_plugin

SMALL = "Shapes-Detection/retinanet_small.yaml"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder, and forget the datasets that it registers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "focal_plugin.audit.audit.propose_anchors", lambda *_, **__: {"status": "enough"}
    )
    before = set(DatasetCatalog.list())

    def command(*arguments):
        code = focal_plugin(["audit", *map(str, arguments)])
        return code, capsys.readouterr()

    yield command
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def files(tmp_path, tiny_shapes):
    """Write the annotations of the built-in dataset with changed boxes, and return JSON:IMAGES."""

    def write(name, box_of=lambda box: box):
        content = json.loads((tiny_shapes / "annotations.json").read_text())
        for annotation in content["annotations"]:
            annotation["bbox"] = box_of(annotation["bbox"])
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
            annotation.pop("segmentation", None)
        (tmp_path / name).write_text(json.dumps(content))
        return f"{name}:{tiny_shapes / 'images'}"

    return write


def test_a_file_is_audited_with_the_stock_retinanet_of_its_classes(run, files):
    code, printed = run(files("train.json"), "--test", files("val.json"), "--json", "facts.json")
    assert printed.out.startswith(
        "config: COCO-Detection/retinanet_R_50_FPN_1x.yaml, the default, with 5 classes;"
    )
    assert "train.json: " in printed.out
    assert printed.err == ""
    with open("facts.json") as stream:
        facts = json.load(stream)
    assert facts["detector"]["num_classes"] == 5
    assert facts["images"]["test"] == ["val.json"]
    assert facts["splits"]["tests"][0]["copies"]["images"] == 9
    assert code == 1  # every test image with objects is a copy
    assert "red     9 of 12 images of val.json are copies of training images" in printed.out


def test_a_config_is_audited_with_its_keys_and_arms(run, files):
    code, printed = run(
        *("--config-file", SMALL, "--dataset", f"mine={files('train.json')}", "--arm", "ce"),
        *("DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "()", "INPUT.MIN_SIZE_TEST", "128"),
        *("INPUT.MIN_SIZE_TRAIN", "(128,)"),
    )
    assert f"config: {SMALL}\nmine: " in printed.out
    assert "images: shorter side 128 px" in printed.out
    assert "of CE, " in printed.out
    assert "of ce." in printed.out
    assert code == 0, printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "without --config-file, give one training set as JSON:IMAGES"),
        (["train.json"], "a dataset is given as JSON:IMAGES, got 'train.json'"),
        (
            ["a:b", "c:d"],
            "give one training set as JSON:IMAGES, such as train.json:images; got a:b",
        ),
        (["nothing.json:images"], "file not found: nothing.json"),
        (["--config-file", "nowhere.yaml"], "nowhere.yaml"),
        (["--config-file", SMALL, "INPUT.MIN_SIZE_TRAIN", "()"], "INPUT.MIN_SIZE_TRAIN must have"),
        (["a:b", "--dataset", "x=a:b"], "without --config-file, give one training set"),
    ],
)
def test_a_mistake_in_the_command_is_named(run, arguments, message):
    code, printed = run(*arguments)
    assert code == 2
    assert message in printed.err
    assert printed.out == ""


def test_faulty_data_is_refused_as_in_training(run, files):
    code, printed = run(files("train.json", lambda box: [*box[:2], -5, box[3]]))
    assert code == 2
    assert "box-negative" in printed.err
    assert printed.out == ""


def test_an_unknown_arm_is_named(run, files):
    code, printed = run(files("train.json"), "--arm", "ohen")
    assert code == 2
    assert "there is no arm 'ohen'; did you mean 'ohem'?" in printed.err
