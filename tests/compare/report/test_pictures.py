import json

import numpy as np
import pytest
from PIL import Image

from focal_plugin.compare.report.pictures import (
    SCALE,
    WHITE,
    CocoImages,
    LabeledBox,
    draw_boxes,
    tile,
)


@pytest.fixture
def images(tiny_shapes):
    return CocoImages(tiny_shapes / "annotations.json", tiny_shapes / "images")


def test_a_box_is_drawn_where_it_is():
    black = Image.new("RGB", (40, 30))
    drawn = np.asarray(draw_boxes(black, [LabeledBox((10, 5, 20, 15), "", (255, 0, 0))]))
    y, x = np.nonzero(drawn[:, :, 0])
    assert (x.min(), y.min()) == (10 * SCALE, 5 * SCALE)
    assert (x.max(), y.max()) == (30 * SCALE, 20 * SCALE)


def test_images_are_tiled_row_by_row():
    sheet = tile([Image.new("RGB", (10, 20), (i, 0, 0)) for i in range(5)], columns=3)
    assert sheet.size == (3 * 16 - 6, 2 * 26 - 6)
    assert sheet.getpixel((17, 1)) == (1, 0, 0)
    assert sheet.getpixel((1, 27)) == (3, 0, 0)
    assert sheet.getpixel((40, 40)) == WHITE


def test_ground_truth_is_that_of_the_json(images, tiny_shapes):
    coco = json.loads((tiny_shapes / "annotations.json").read_text())
    first = coco["annotations"][0]["image_id"]
    expected = [tuple(a["bbox"]) for a in coco["annotations"] if a["image_id"] == first]
    assert [labeled.box for labeled in images.ground_truth(first)] == expected


def test_a_text_of_any_script_is_drawn_inside_the_image():
    box = LabeledBox((35, 0, 5, 5), "日本 crescent", (255, 0, 0))
    drawn = np.asarray(draw_boxes(Image.new("RGB", (40, 30), (0, 0, 255)), [box]))
    label = drawn[:, :, 2] == 0  # all but the background
    y, x = np.nonzero(label)
    assert x.min() < 35 * SCALE - 30  # moved to the left to fit
    assert y.max() < 30


def test_a_text_with_a_line_break_is_one_line():
    box = (10, 10, 20, 15)
    drawn = [
        np.asarray(draw_boxes(Image.new("RGB", (40, 30)), [LabeledBox(box, text, WHITE)]))
        for text in ("a\nb", "a b")
    ]
    assert np.array_equal(*drawn)


def test_a_large_image_is_made_smaller():
    drawn = draw_boxes(
        Image.new("RGB", (400, 300)), [LabeledBox((0, 0, 1, 1), "", WHITE)], scale=0.1
    )
    assert drawn.size == (40, 30)


def black_of_texts(boxes, **style):
    """Return the number of pixels that the texts of boxes cover on a blue image."""
    drawn = draw_boxes(Image.new("RGB", (200, 100), (0, 0, 255)), boxes, scale=3, **style)
    return int((np.asarray(drawn)[:, :, 2] == 0).sum())


def test_a_small_box_has_no_text_in_a_dense_image():
    small = LabeledBox((50, 50, 10, 30), "cell", (255, 0, 255))  # 30 of 33 pixels
    large = LabeledBox((50, 50, 11, 30), "cell", (255, 0, 255))
    assert black_of_texts([small], sparse=True) == 0
    assert black_of_texts([large], sparse=True) > 100
    assert black_of_texts([small]) > 100


def test_a_text_that_would_cover_another_one_is_left_out():
    first, near, far = (LabeledBox((x, 50, 40, 30), "cell", (255, 0, 255)) for x in (20, 22, 120))
    one = black_of_texts([first], sparse=True)
    assert black_of_texts([first, near], sparse=True) == one
    assert black_of_texts([first, far], sparse=True) == 2 * one
    assert black_of_texts([first, near]) > one
