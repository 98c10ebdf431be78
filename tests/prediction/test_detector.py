"""Detection on image files: the pixels, sizes and detections of an evaluation."""

import json

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from PIL import Image

from focal_plugin.prediction import detector
from focal_plugin.prediction.coco_file import CocoFile
from focal_plugin.prediction.detector import Detected, Unreadable, detect, read_input
from focal_plugin.prediction.trained_run import load_model, read_run


@pytest.fixture(scope="module")
def loaded(run):
    found = read_run(run, device="cpu")
    return load_model(found), found.cfg


def detect_all(loaded, files, **options):
    model, cfg = loaded
    return list(detect(model.model, cfg, files, **options))


def same(first, second):
    assert first.file == second.file
    for name, value in first.instances.get_fields().items():
        other = second.instances.get(name)
        expected, found = (getattr(x, "tensor", x) for x in (value, other))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_they_are_the_detections_of_the_evaluation(run, loaded, images):
    model, _ = loaded
    expected = json.loads((run / "inference/coco_instances_results.json").read_text())
    file = CocoFile(model.class_names, [0.0] * 5, images[0].parent, {})
    for one in detect_all(loaded, images):
        file.add(one, one.instances)
    ids = {image["file_name"]: image["id"] for image in file.content["images"]}
    truth = json.loads((images[0].parents[1] / "annotations.json").read_text())
    image_ids = {image["id"]: ids[image["file_name"]] for image in truth["images"]}
    category_ids = {x["id"]: k + 1 for k, x in enumerate(truth["categories"])}
    assert len(file.content["annotations"]) == len(expected) > 100
    for own, other in zip(file.content["annotations"], expected, strict=True):
        assert own["image_id"] == image_ids[other["image_id"]]
        assert own["category_id"] == category_ids[other["category_id"]]
        assert own["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
        assert own["score"] == pytest.approx(other["score"], abs=1e-6)


@pytest.mark.parametrize("batch_size", [3, 100])
def test_batches_and_windows_change_nothing(loaded, images, tmp_path, monkeypatch, batch_size):
    monkeypatch.setattr(detector, "READ_AHEAD", 2)
    wide = tmp_path / "wide.png"
    Image.open(images[0]).resize((96, 64)).save(wide)
    files = [*images[:3], wide, *images[3:7]]
    alone = detect_all(loaded, files)
    together = detect_all(loaded, files, batch_size=batch_size)
    for first, second in zip(alone, together, strict=True):
        same(first, second)


def test_a_batch_has_one_size(loaded, images, tmp_path):
    model, cfg = loaded
    wide = tmp_path / "wide.png"
    Image.open(images[0]).resize((96, 64)).save(wide)
    batches = []

    def spy(batch):
        batches.append([tuple(entry["image"].shape) for entry in batch])
        return model.model(batch)

    list(detect(spy, cfg, [images[0], wide, *images[1:4]], batch_size=3))
    assert sorted(map(len, batches)) == [1, 1, 3]
    assert all(len(set(shapes)) == 1 for shapes in batches)


def test_a_file_that_is_no_image_does_not_end_the_others(loaded, images, tmp_path):
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(images[0].read_bytes()[:-100])
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    (tmp_path / "empty.png").touch()
    bad = [truncated, text, tmp_path / "empty.png", tmp_path / "gone.png"]
    files = [bad[0], images[0], *bad[1:], images[1]]
    results = detect_all(loaded, files, batch_size=4)
    assert [one.file for one in results] == files
    failed = {one.file: one.reason for one in results if isinstance(one, Unreadable)}
    assert list(failed) == bad
    assert failed[text] == failed[tmp_path / "empty.png"] == "it is no image that Pillow knows"
    assert "truncated" in failed[truncated]
    assert failed[tmp_path / "gone.png"] == "No such file or directory"


@pytest.fixture
def stored(images, tmp_path):
    """Return a function that saves an image in a mode of Pillow, and its path."""
    image = Image.open(images[0]).convert("RGB")

    def stored(mode, name, **options):
        image.convert(mode).save(tmp_path / name, **options)
        return tmp_path / name

    return stored


@pytest.mark.parametrize(
    ("mode", "name"),
    [("CMYK", "a.jpg"), ("P", "a.png"), ("L", "a.png"), ("RGBA", "a.png"), ("RGB", "a.tif")],
)
def test_other_modes_are_read_as_in_training(loaded, stored, mode, name):
    file = stored(mode, name)
    (found,) = detect_all(loaded, [file])
    assert isinstance(found, Detected)
    assert not found.note
    expected = read_image(str(file), format="BGR")  # what training reads
    np.testing.assert_array_equal(read_input(loaded[1], file).permute(1, 2, 0), expected)


def test_pixels_of_16_bits_are_cut_as_in_training_which_is_said(loaded, images, tmp_path):
    gray = np.asarray(Image.open(images[0]).convert("L")).astype(np.uint16)
    dark, bright = tmp_path / "dark.png", tmp_path / "bright.png"
    Image.fromarray(gray).save(dark)
    Image.fromarray(gray * 257).save(bright)
    first, second = detect_all(loaded, [dark, bright])
    assert not first.note
    assert second.note.startswith(f"{bright}: mode I;16, pixels from ")
    assert second.note.endswith("they are cut to 0..255, as in training")
    cut = np.minimum(gray * 257, 255)
    np.testing.assert_array_equal(read_input(loaded[1], bright)[0], cut)


def test_boxes_are_in_the_orientation_of_exif(loaded, images, tmp_path):
    upright = Image.open(images[0]).convert("RGB").resize((96, 64))
    exif = Image.Exif()
    exif[0x112] = 6  # turn by 270 degrees to see it upright
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    first, second = detect_all(loaded, [tmp_path / "upright.png", tmp_path / "turned.png"])
    assert (second.width, second.height) == (first.width, first.height) == (96, 64)
    torch.testing.assert_close(
        second.instances.pred_boxes.tensor, first.instances.pred_boxes.tensor
    )


def test_the_channels_are_those_of_the_config(loaded, images):
    cfg = loaded[1].clone()
    pixels = {}
    for name in ("BGR", "RGB"):
        cfg.INPUT.FORMAT = name
        pixels[name] = read_input(cfg, images[0])
    assert not torch.equal(pixels["BGR"], pixels["RGB"])
    assert torch.equal(pixels["BGR"], pixels["RGB"].flip(0))


def test_a_gpu_without_memory_for_a_batch_is_explained(loaded, images):
    def full(batch):
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(ValueError, match="for 2 images of 64 x 64 at once: give a smaller --batch"):
        list(detect(full, loaded[1], images[:2], batch_size=2))
