import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focal_plugin.compare.analysis.detection_analysis import ImageChoice
from focal_plugin.compare.report.pictures import WHITE, CocoImages
from focal_plugin.compare.report.qualitative import CELL, GRAY, SKY, VERMILLION, _judged, draw_grid

from ..fake_comparison import fake_detections, write_ground_truth


@pytest.fixture
def data(tmp_path):
    return write_ground_truth(tmp_path / "data", ("a", "b", "日本"))


def choice_of(data, files, image_ids=(1, 2), thresholds=None):
    return ImageChoice(
        seed=1,
        files={arm: str(file) for arm, file in files.items()},
        thresholds=thresholds or {"CE": 0.5, "FL": 0.9},
        image_ids=image_ids,
        json_file=data["json_file"],
        image_root=data["image_root"],
    )


def write(folder, name, detections):
    file = folder / f"{name}.json"
    file.write_text(json.dumps(detections))
    return file


def judged(data, detections, objects):
    images = CocoImages(Path(data["json_file"]), Path(data["image_root"]))
    boxes, right = _judged(images, objects, detections)
    return [(b.color, b.text) for b in boxes], right


def detection(x, score, category=1):
    return {"image_id": 1, "category_id": category, "bbox": [x, 0, 10, 10], "score": score}


def object_(x, category=1, **more):
    return {"category_id": category, "bbox": [x, 0, 10, 10], **more}


def test_correct_false_and_missed_have_their_colors(data):
    boxes, right = judged(
        data,
        [detection(0, 0.9), detection(1, 0.8), detection(40, 0.7, category=2)],
        [object_(0), object_(40), object_(80, category=3)],
    )
    assert right == 1
    assert boxes == [
        (WHITE, ""),  # found as another class
        (WHITE, ""),
        (SKY, "a 0.90"),
        (VERMILLION, "a 0.80"),  # a duplicate
        (VERMILLION, "b 0.70"),
    ]


def test_the_better_detection_of_an_object_is_the_right_one(data):
    boxes, _ = judged(data, [detection(1, 0.6), detection(0, 0.7)], [object_(0)])
    assert boxes == [(SKY, "a 0.70"), (VERMILLION, "a 0.60")]


def test_a_detection_in_a_crowd_of_its_class_does_not_count(data):
    crowd = {"category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 1}
    boxes, right = judged(data, [detection(5, 0.9), detection(5, 0.8, category=2)], [crowd])
    assert (boxes, right) == ([(GRAY, "a 0.90"), (VERMILLION, "b 0.80")], 0)


def test_each_row_is_the_ground_truth_and_every_arm(data, tmp_path):
    found = fake_detections(data, 1.0, 0)
    files = {"CE": write(tmp_path, "ce", found), "FL": write(tmp_path, "fl", [])}
    grid = draw_grid(choice_of(data, files, (3, 1)), tmp_path)
    assert (grid.arms, grid.problems) == (("CE", "FL"), ())
    assert [row.image_id for row in grid.rows] == [3, 1]
    first = grid.rows[0]
    assert first.texts == (
        "Image 3, its 3 objects",
        "Image 3, CE: 3 detections, 3 of them correct",
        "Image 3, FL: 0 detections, 0 of them correct",
    )
    pictures = [Image.open(io.BytesIO(picture)) for picture in first.pictures]
    assert {picture.size for picture in pictures} == {(CELL, round(CELL * 48 / 64))}
    assert Image.open(io.BytesIO(grid.sheet())).width == 3 * CELL // 2 + 2 * 6


def test_only_detections_above_the_threshold_of_their_arm_are_drawn(data, tmp_path):
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [30, 30, 9, 9], "score": score}
        for score in (0.4, 0.6, 0.95)
    ]
    file = write(tmp_path, "x", found)
    (row,) = draw_grid(choice_of(data, {"CE": file, "FL": file}, (1,)), tmp_path).rows
    assert [text.split(": ")[1][:1] for text in row.texts[1:]] == ["2", "1"]
    # an arm without a correct detection has an infinite threshold
    never = choice_of(data, {"CE": file, "FL": file}, (1,), {"CE": float("inf"), "FL": 0.9})
    (row,) = draw_grid(never, tmp_path).rows
    assert "CE: 0 detections" in row.texts[1]


def test_a_box_keeps_its_color(data, tmp_path):
    box = [20, 20, 20, 20]
    found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.99}]
    file = write(tmp_path, "x", found)
    (row,) = draw_grid(choice_of(data, {"CE": file, "FL": file}, (1,)), tmp_path).rows
    pixels = np.asarray(Image.open(io.BytesIO(row.pictures[1])).convert("RGB")).astype(int)
    scale = CELL / 64
    edge = pixels[round(40 * scale) - 1, round(30 * scale)]
    assert np.abs(edge - VERMILLION).max() < 40


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_an_image_outside_the_folder_is_not_opened(data, tmp_path, name):
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "secret.png")
    file = tmp_path / "data" / "annotations.json"
    coco = json.loads(file.read_text())
    coco["images"][0]["file_name"] = name
    file.write_text(json.dumps(coco))
    empty = write(tmp_path, "x", [])
    grid = draw_grid(choice_of(data, {"CE": empty, "FL": empty}, (1, 2)), tmp_path)
    assert [row.image_id for row in grid.rows] == [2]
    assert "outside" in grid.problems[0]


def test_a_missing_image_is_reported_and_the_others_are_drawn(data, tmp_path):
    (tmp_path / "data" / "images" / "1.png").unlink()
    empty = write(tmp_path, "x", [])
    grid = draw_grid(choice_of(data, {"CE": empty, "FL": empty}, (1, 2)), tmp_path)
    assert [row.image_id for row in grid.rows] == [2]
    assert grid.problems[0].startswith("Image 1 could not be drawn")
