"""The built-in dataset: guarantees about bytes, boxes and imbalance."""

import hashlib
import json
import runpy
import sys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from focal_plugin.data.shapes import __main__ as draw_shapes
from focal_plugin.data.shapes import dataset as shapes
from focal_plugin.data.shapes.dataset import draw_dataset
from focal_plugin.data.shapes.painting import CLASSES, ShapesSpec, draw_image

SMALL = ShapesSpec(images=40, image_size=96)
PINNED = "c16b3d3398d761543f1ea53b2ab3b7cea154ffdcdc4780bd9c41374a65ec9f44"


def digest(folder):
    """Return one hash of the names and bytes of all files."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            total.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "small"
    draw_dataset(SMALL, folder)
    return folder


@pytest.fixture(scope="module")
def coco(drawn):
    return json.loads((drawn / "annotations.json").read_text())


def test_the_bytes_are_the_same_on_every_machine(drawn):
    """Another hash means another dataset: `painting.VERSION` must then increase."""
    assert digest(drawn) == PINNED


def test_only_the_seed_changes_the_bytes(drawn, tmp_path):
    draw_dataset(SMALL, tmp_path / "again")
    draw_dataset(ShapesSpec(images=40, image_size=96, seed=1), tmp_path / "other")
    assert digest(tmp_path / "again") == digest(drawn)
    assert digest(tmp_path / "other") != digest(drawn)


def test_an_image_does_not_depend_on_the_number_of_images():
    image, annotations = draw_image(ShapesSpec(images=5), 3)
    same_image, same_annotations = draw_image(ShapesSpec(images=500), 3)
    assert np.array_equal(image, same_image)
    assert annotations == same_annotations


def test_boxes_are_tight_integers_inside_the_image(coco):
    assert len(coco["annotations"]) > 40
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert all(isinstance(value, int) for value in annotation["bbox"])
        assert x >= 0
        assert y >= 0
        assert width > 0
        assert height > 0
        assert x + width <= SMALL.image_size
        assert y + height <= SMALL.image_size


def test_a_box_encloses_the_pixels_of_its_object_and_no_more():
    """Both images use the same random numbers, so their difference is the object."""
    checked = 0
    for index in range(30):
        with_one, annotations = draw_image(ShapesSpec(objects=(1, 1), crowds=0, empty=0), index)
        without, none = draw_image(ShapesSpec(objects=(0, 0), crowds=0, empty=0), index)
        assert none == []
        y, x = np.nonzero((with_one != without).any(axis=2))
        x_low, y_low, width, height = annotations[0]["bbox"]
        low = np.array([x_low, y_low])
        high = low + np.array([width, height])
        changed_low, changed_high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()]) + 1
        # A pixel covered by less than half changes its color, but does not count.
        assert (abs(changed_low - low) <= 1).all()
        assert (abs(changed_high - high) <= 1).all()
        checked += 1
    assert checked == 30


@pytest.mark.slow
def test_the_default_has_long_tailed_classes_empty_images_and_crowds():
    spec = ShapesSpec()
    annotations = [draw_image(spec, index)[1] for index in range(400)]
    objects = [a["category_id"] for image in annotations for a in image if not a["iscrowd"]]
    counts = np.bincount(objects, minlength=len(CLASSES) + 1)[1:]
    assert len(CLASSES) >= 5
    assert (np.diff(counts) < 0).all()
    assert counts[0] > 4 * counts[-1] > 0
    assert 0.05 < np.mean([not image for image in annotations]) < 0.15
    assert 0 < sum(a["iscrowd"] for image in annotations for a in image) < 40


@pytest.mark.parametrize(("objects", "distractors"), [((0, 0), (0, 0)), ((2, 2), (30, 30))])
def test_the_options_change_the_imbalance(objects, distractors):
    spec = ShapesSpec(objects=objects, distractors=distractors, empty=0, crowds=0, image_size=256)
    image, annotations = draw_image(spec, 0)
    assert len(annotations) == objects[0]
    assert image.shape == (256, 256, 3)


def test_distractors_are_drawn_but_not_annotated():
    many, annotations = draw_image(ShapesSpec(distractors=(9, 9), objects=(0, 0), crowds=0), 0)
    none, _ = draw_image(ShapesSpec(distractors=(0, 0), objects=(0, 0), crowds=0), 0)
    assert annotations == []
    assert (many != none).any(axis=2).mean() > 0.03


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objects": (3, 1)}, "objects"),
        ({"empty": 1.5}, "empty"),
        ({"images": 0}, "images"),
        ({"image_size": 16}, "image_size"),
        ({"radius": (8, 70)}, "radius"),
    ],
)
def test_an_illegal_option_is_an_error_that_names_it(options, words):
    with pytest.raises(ValueError, match=words):
        ShapesSpec(**options)


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("focal_plugin.data.shapes.dataset.encode_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        draw_dataset(SMALL, tmp_path / "shapes")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_draw_at_once_create_one_dataset(drawn, tmp_path, monkeypatch):
    """The second process draws everything while the first one encodes an image."""
    folder, encode, calls = tmp_path / "shapes", shapes.encode_png, []

    def encode_late(image):
        calls.append(len(list(tmp_path.iterdir())))
        if len(calls) == 20:
            draw_dataset(SMALL, folder)
        return encode(image)

    monkeypatch.setattr(shapes, "encode_png", encode_late)
    draw_dataset(SMALL, folder)
    assert max(calls) == 2, "both processes drew"
    assert len(calls) == 2 * SMALL.images
    assert [file.name for file in tmp_path.iterdir()] == ["shapes"]
    assert digest(folder) == digest(drawn)


def test_stock_loader_reads_it(tiny_shapes):
    dicts = DatasetCatalog.get("tiny_shapes")
    coco = json.loads((tiny_shapes / "annotations.json").read_text())
    assert len(dicts) == len(coco["images"]) == 12
    assert sum(len(d["annotations"]) for d in dicts) == len(coco["annotations"])
    assert MetadataCatalog.get("tiny_shapes").thing_classes == list(CLASSES)


def test_both_splits_are_registered_under_a_folder_with_the_version():
    for name in ("focal_shapes_train", "focal_shapes_val"):
        assert name in DatasetCatalog.list()
        metadata = MetadataCatalog.get(name)
        assert "focal_shapes_v1" in metadata.json_file
        assert metadata.evaluator_type == "coco"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_command_line_draws_with_the_given_options(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "mine"
    dials = ["--images", "3", "--radius", "6", "10", "--distractors", "1", "2"]
    options = [*dials, "--image-size", "64"]
    monkeypatch.setattr(sys, "argv", ["draw_shapes", str(folder), *options])
    runpy.run_module("focal_plugin.data.shapes", run_name="__main__")
    output = capsys.readouterr().out
    assert output.strip() == f"--dataset mine={folder}/annotations.json:{folder}/images"
    spec = json.loads((folder / "annotations.json").read_text())["info"]["spec"]
    assert (spec["images"], spec["distractors"]) == (3, [1, 2])
    monkeypatch.setattr(sys, "argv", ["draw_shapes", str(folder)])
    with pytest.raises(SystemExit) as end:
        draw_shapes.main()
    assert end.value.code == 2
    assert "already exists" in capsys.readouterr().err
