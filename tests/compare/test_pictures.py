import json

import numpy as np
import pytest
from PIL import Image

from focal_plugin.compare.pictures import (
    SCALE,
    WHITE,
    CocoImages,
    LabelledBox,
    draw_boxes,
    draw_detections,
    tile,
)


@pytest.fixture
def images(tiny_shapes):
    return CocoImages(tiny_shapes / "annotations.json", tiny_shapes / "images")


def test_a_box_is_drawn_where_it_is():
    black = Image.new("RGB", (40, 30))
    drawn = np.asarray(draw_boxes(black, [LabelledBox((10, 5, 20, 15), "", (255, 0, 0))]))
    y, x = np.nonzero(drawn[:, :, 0])
    assert (x.min(), y.min()) == (10 * SCALE, 5 * SCALE)
    assert (x.max(), y.max()) == (30 * SCALE, 20 * SCALE)


def test_images_are_tiled_row_by_row():
    sheet = tile([Image.new("RGB", (10, 20), (i, 0, 0)) for i in range(5)], columns=3)
    assert sheet.size == (3 * 16 - 6, 2 * 26 - 6)
    assert sheet.getpixel((17, 1)) == (1, 0, 0)
    assert sheet.getpixel((1, 27)) == (3, 0, 0)
    assert sheet.getpixel((40, 40)) == WHITE


def test_detections_below_the_threshold_and_of_other_images_are_left_out(images):
    predictions = [
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.1},
        {"image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9},
    ]
    (kept,) = images.detections(predictions, 1)
    assert (kept.text, kept.box) == ("disc 0.90", (1, 2, 3, 4))


def test_ground_truth_is_that_of_the_json(images, tiny_shapes):
    coco = json.loads((tiny_shapes / "annotations.json").read_text())
    (first, *_) = images.with_objects(9)
    expected = [tuple(a["bbox"]) for a in coco["annotations"] if a["image_id"] == first]
    assert [labelled.box for labelled in images.ground_truth(first)] == expected


def test_no_detection_still_makes_a_picture(images, tmp_path):
    (tmp_path / "none.json").write_text("[]")
    draw_detections(images, tmp_path / "none.json", tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").size == (3 * 64 * SCALE + 12,) * 2
