"""focal-plugin export, and the comparison of an exported detector."""

import json
import math
import zipfile

import pytest
import torch
from torch import nn

import focal_plugin_commands as commands
from focal_plugin.prediction import export_command
from focal_plugin.prediction.agreement import Agreement, compare, difference
from focal_plugin.prediction.exported_model import Exported, eager, script
from focal_plugin.prediction.portable_detector import ScriptableRCNN, TraceableDetector
from focal_plugin.prediction.trained_run import load_model, read_run

from ..modeling.pairs import RETINANET
from .conftest import make_run

SOFTMAX = ("MODEL.FOCAL.CLS_LOSS.NAME", "SoftmaxFocalLoss")
GUMBEL = ("MODEL.FOCAL.CLS_LOSS.NAME", "GumbelLoss")

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


@pytest.fixture(autouse=True)
def _without_optimization():
    """Disable graph optimization, which takes longer than a few runs."""
    with torch.jit.optimized_execution(False):
        yield


def export(*arguments):
    return commands.focal_plugin(["export", *map(str, arguments)])


def facts_in(file):
    with zipfile.ZipFile(file) as archive:
        (name,) = (x for x in archive.namelist() if x.endswith("focal_plugin.json"))
        return json.loads(archive.read(name))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--tracing", "--scripting"])
def test_a_torchscript_file_detects_like_the_detector(how, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export_command, "NUM_IMAGES", 2)
    file = tmp_path / "model.pt"
    assert export(run, "--format", "torchscript", how, "--out", file, "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "on 2 test images and a part of one" in said
    assert "largest difference 0 px" in said
    exported = torch.jit.load(file)
    image = torch.randint(0, 256, (3, 96, 80), generator=torch.Generator().manual_seed(3)).float()
    expected = eager(load_model(read_run(run, device="cpu")).model, image)
    assert len(expected[1]) > 0
    with torch.no_grad():
        assert difference(expected, exported(image)) == (0.0, 0.0)
    facts = facts_in(file)
    assert len(facts["class_names"]) == 5
    assert (facts["format"], facts["min_size"]) == ("BGR", 64)


@pytest.mark.parametrize("adapter", [TraceableDetector, ScriptableRCNN])
def test_what_is_exported_of_two_stages_detects_like_the_detector(adapter, two_stage_model):
    image = torch.randint(0, 256, (3, 96, 80), generator=torch.Generator().manual_seed(3)).float()
    with torch.no_grad():
        found = adapter(two_stage_model)(image)
    assert len(found[1]) > 0
    assert difference(eager(two_stage_model, image), found) == (0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("opts", [(), SOFTMAX, GUMBEL], ids=["sigmoid", "softmax", "Gumbel"])
def test_an_onnx_file_detects_like_the_detector(opts, tiny_shapes, tmp_path, capsys):
    make_run(tmp_path, RETINANET, *opts)
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    file = tmp_path / "model.onnx"
    assert export(tmp_path, "--format", "onnx") == 0
    assert "on 10 test images" in capsys.readouterr().out
    (entry,) = onnx.load(file).metadata_props
    assert json.loads(entry.value)["format"] == "BGR"
    assert export(tmp_path, "--format", "onnx", "--scripting") == 2


def test_an_export_that_differs_is_not_written(run, tmp_path, images, capsys, monkeypatch):
    def wrong(model, image, facts):
        def detect(image):
            boxes, scores, classes = eager(model, image)
            return boxes + 1, scores, classes

        return Exported(b"", detect)

    monkeypatch.setattr(export_command, "trace", wrong)
    file = tmp_path / "model.pt"
    chosen = ("--images", images[0], "--out", file, "--device", "cpu")
    assert export(run, "--format", "torchscript", *chosen) == 1
    said = capsys.readouterr()
    assert "on 1 given image and" in said.out
    assert "largest difference 1 px (tolerance 0.05)" in said.out
    assert said.err == "The exported detector differs, so it is not written.\n"
    assert not file.exists()


class Cascade(nn.Module):
    """Detector with code that TorchScript does not support, as that of Cascade R-CNN."""

    roi_heads = None

    def inference(self, inputs, do_postprocess):
        return [*(x for x in inputs)]


def test_an_exported_detector_that_fails_is_not_written(run, tmp_path, images, capsys, monkeypatch):
    def detect(image):
        raise RuntimeError("no\nsuch operator")

    monkeypatch.setattr(export_command, "trace", lambda *_: Exported(b"", detect))
    file = tmp_path / "model.pt"
    chosen = ("--images", images[0], "--out", file, "--device", "cpu")
    assert export(run, "--format", "torchscript", *chosen) == 1
    assert "fails, so it is not written: no such operator\n" in capsys.readouterr().err
    assert not file.exists()


def test_a_detector_that_cannot_be_scripted_is_named():
    with pytest.raises(ValueError, match="Cascade cannot be scripted: use --tracing"):
        script(Cascade(), {})


def test_without_images_random_ones_are_compared(run):
    found = read_run(run, device="cpu")
    without = found.__class__(found.folder, found.cfg, found.weights, False, None)
    chosen, origin = export_command._images(found.cfg, [], without)
    assert origin == "random image"
    assert len(chosen) == 11
    assert len({image.shape for image in chosen}) > 4
    again, _ = export_command._images(found.cfg, [], without)
    assert all(map(torch.equal, chosen, again))


def test_a_missing_folder_of_the_file_is_named_before_anything_runs(run, tmp_path, capsys):
    assert export(run, "--format", "torchscript", "--out", tmp_path / "no/model.pt") == 2
    assert "--out: there is no folder" in capsys.readouterr().err


def boxes(*rows):
    table = torch.tensor(rows, dtype=torch.float32).view(-1, 6)
    return table[:, :4], table[:, 4], table[:, 5].long()


def test_boxes_that_change_places_are_equal():
    first, second = [0, 0, 9, 9, 0.5, 1], [5, 5, 9, 9, 0.5, 1]
    assert difference(boxes(first, second), boxes(second, first)) == (0.0, 0.0)


def test_the_largest_difference_of_any_box_counts():
    first, second = [0, 0, 9, 9, 0.5, 1], [50, 5, 90, 9, 0.25, 2]
    moved = [50, 5, 90, 9.5, 0.375, 2]
    assert difference(boxes(first, second), boxes(first, moved)) == (0.5, 0.125)


@pytest.mark.parametrize(
    "other", [boxes(), boxes([0, 0, 9, 9, 0.5, 2]), boxes(*[[0, 0, 9, 9, 0.5, 1]] * 2)]
)
def test_a_missing_or_added_box_and_another_class_are_infinitely_far(other):
    assert difference(boxes([0, 0, 9, 9, 0.5, 1]), other) == (math.inf, math.inf)


def test_a_box_that_stands_for_two_others_is_found():
    first, second = [0, 0, 9, 9, 0.5, 1], [50, 5, 90, 9, 0.5, 1]
    assert difference(boxes(first, second), boxes(first, first))[0] == 81
    assert difference(boxes(first, first), boxes(first, second))[0] == 81


def test_images_without_boxes_agree():
    found = compare([boxes()], lambda image: boxes(), [torch.zeros(3, 4, 4)])
    assert found == Agreement(1, 0, 0.0, 0.0)
    assert found.is_within_tolerance
