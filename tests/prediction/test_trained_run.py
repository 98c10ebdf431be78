"""The run of a prediction: its config, weights and names."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog

from focal_plugin.prediction.trained_run import class_names, load_model, progress_sentence, read_run

from .conftest import make_run


@pytest.fixture
def copy(run, tmp_path):
    """Return a copy of the run that a test may damage."""
    return shutil.copytree(run, tmp_path / "copy")


def edit_config(folder, change):
    file = folder / "config.yaml"
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))


def test_the_weights_are_those_of_the_last_checkpoint(run):
    found = read_run(run)
    model = load_model(found)
    assert found.weights == run / "model_final.pth"
    assert not model.model.training
    assert progress_sentence(found, model) == f"Weights: {found.weights}, after 4 iterations."


def test_the_weights_of_an_unfinished_training_are_used_and_named(tmp_path, tiny_shapes):
    make_run(tmp_path, iteration=1, name="model_0000001")
    found = read_run(tmp_path)
    said = progress_sentence(found, load_model(found))
    assert "unfinished" in said
    assert "after iteration 2 of 4 (model_0000001.pth)" in said


def test_a_folder_of_weights_needs_no_record(copy):
    (copy / "env.json").write_text("{")
    (copy / "last_checkpoint").unlink()
    assert read_run(copy).weights == copy / "model_final.pth"


def test_weights_of_another_run_can_be_given(run, tmp_path, tiny_shapes):
    _, other = make_run(tmp_path, iteration=0, name="model_other")
    other.head.cls_score.bias.data.fill_(1.0)
    torch.save({"model": other.state_dict()}, tmp_path / "plain.pth")
    found = read_run(run, weights=tmp_path / "plain.pth")
    model = load_model(found)
    assert model.model.head.cls_score.bias.unique().tolist() == [1.0]
    assert progress_sentence(found, model) == f"Weights: {tmp_path / 'plain.pth'}."


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda run: (run / "config.yaml").unlink(), FileNotFoundError, "it has no config.yaml"),
        (shutil.rmtree, FileNotFoundError, "there is no such folder"),
        (
            lambda run: [file.unlink() for file in (*run.glob("*.pth"), run / "last_checkpoint")],
            FileNotFoundError,
            "has no weights, neither last_checkpoint nor model_final.pth.*--weights",
        ),
        (lambda run: (run / "last_checkpoint").write_text("x"), ValueError, "names x, which.*--w"),
        (
            lambda run: edit_config(run, lambda content: content["MODEL"].update(NEW=1)),
            KeyError,
            "Non-existent config key: MODEL.NEW",
        ),
        (
            lambda run: edit_config(run, lambda x: x["MODEL"].update(LOAD_PROPOSALS=True)),
            ValueError,
            "new images have no proposals",
        ),
    ],
)
def test_a_folder_that_is_no_run_is_explained(copy, damage, error, message):
    damage(copy)
    with pytest.raises(error, match=message) as raised:
        read_run(copy)
    assert str(copy) in str(raised.value) or error is KeyError


def test_the_folder_of_a_comparison_names_one_of_its_runs(copy):
    with pytest.raises(FileNotFoundError, match=re.escape(f"it holds 1 runs, such as {copy}")):
        read_run(copy.parent)


def test_a_missing_file_of_weights_and_device_are_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--weights: there is no file .*gone\.pth"):
        read_run(run, weights=tmp_path / "gone.pth")
    with pytest.raises(ValueError, match="--device is 'gpu': it must be cpu"):
        read_run(run, device="gpu")


def test_weights_that_do_not_fit_or_are_damaged_are_refused(copy):
    weights = copy / "model_final.pth"
    content = torch.load(weights, weights_only=True)
    del content["model"]["head.cls_score.bias"]
    torch.save(content, copy / "partial.pth")
    with pytest.raises(ValueError, match=r"1 of the \d+ tensors") as raised:
        load_model(read_run(copy, weights=copy / "partial.pth"))
    assert str(raised.value).endswith("Give the weights of this model as --weights")
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"model_final\.pth"):
        load_model(read_run(copy))


def test_weights_with_a_nan_are_refused(copy):
    content = torch.load(copy / "model_final.pth", weights_only=True)
    content["model"]["head.cls_score.bias"][0] = float("nan")
    torch.save(content, copy / "nan.pth")
    with pytest.raises(ValueError, match="are not finite; give other --weights"):
        load_model(read_run(copy, weights=copy / "nan.pth"))


def test_names_come_from_the_weights_then_the_config_then_the_record(run):
    found = read_run(run)
    recorded = load_model(found).class_names
    assert recorded == tuple(MetadataCatalog.get("tiny_shapes").thing_classes)
    found.cfg.MODEL.FOCAL.CLASS_NAMES = [*"abcde"]
    assert class_names(found, tuple("vwxyz")) == tuple("vwxyz")
    assert class_names(found, ("too few",)) == tuple("abcde")
    found.cfg.MODEL.FOCAL.CLASS_NAMES = []
    assert class_names(found, ()) == recorded
    found.cfg.DATASETS.TRAIN = ("not registered",)
    assert class_names(found, ()) == recorded  # of env.json
    unknown = replace(found, environment=None)
    assert class_names(unknown, ()) == tuple(f"class {i}" for i in range(5))
    MetadataCatalog.pop("not registered")
