"""Pictures with boxes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focal_plugin.prediction.pictures import draw_picture, picture_files, save_picture

ROOT = Path("/data")


def picture_names(*names):
    files = picture_files([ROOT / name for name in names], ROOT, Path("/out"))
    return [str(files[ROOT / name].relative_to("/out")) for name in names]


def test_images_of_one_name_have_two_pictures():
    names = ["a/1.jpg", "b/1.jpg", "b/1.png", "b/1.JPG"]
    assert picture_names(*names) == names


def test_another_format_becomes_a_jpeg_whose_name_is_free():
    assert picture_names("a.tif", "a.tif.jpg", "a.gif") == ["a.tif-2.jpg", "a.tif.jpg", "a.gif.jpg"]


def test_a_picture_never_replaces_an_image():
    with pytest.raises(ValueError, match=r"would replace an image, /data/1\.png: choose another"):
        picture_files([ROOT / "1.png"], ROOT, ROOT)


def entry(box, category=1, score=0.5):
    return {"bbox": box, "category_id": category, "score": score}


def test_a_box_is_drawn_where_it_is_in_the_orientation_of_exif(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (500, 600)).save(tmp_path / "a.png", exif=exif)
    picture = draw_picture(tmp_path / "a.png", [entry([100, 200, 300, 150])], ["a"])
    assert picture.size == (600, 500)
    drawn = np.asarray(picture).any(axis=2)
    rows, columns = np.flatnonzero(drawn[:, 250]), np.flatnonzero(drawn[300])
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (200, 350, 100, 400)


def test_a_small_picture_is_enlarged_and_has_one_color_for_each_class(tmp_path):
    Image.new("L", (120, 60)).save(tmp_path / "a.png")
    entries = [entry([10, 20, 30, 20]), entry([60, 20, 30, 20], category=9)]
    picture = draw_picture(tmp_path / "a.png", entries, [f"class {i}" for i in range(9)])
    assert picture.size == (480, 240)
    assert picture.getpixel((40, 120)) != picture.getpixel((240, 120)) != (0, 0, 0)


def test_folders_of_pictures_are_made(tmp_path):
    save_picture(Image.new("RGB", (4, 4)), tmp_path / "a/b/c.jpg")
    assert Image.open(tmp_path / "a/b/c.jpg").format == "JPEG"
