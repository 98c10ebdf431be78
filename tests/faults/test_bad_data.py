"""Invalid data is refused with file, id and number, and nothing is written."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from .planted import hold_at
from .runs import SOON_S, TWO_PROCESSES


@pytest.fixture
def images(tiny_shapes, tmp_path):
    """Copy the dataset, and return a way to change its annotations."""
    return Images(shutil.copytree(tiny_shapes, tmp_path / "images"))


class Images:
    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "annotations.json"
        self.content = json.loads(self.file.read_text())

    def save(self):
        self.file.write_text(json.dumps(self.content))
        return self.folder

    def path(self, image):
        return self.folder / "images" / image["file_name"]


def negative_box(images):
    box = images.content["annotations"][3]
    box["bbox"][2] = -7.5
    return [str(images.file), str(box["id"]), "-7.5"]


def one_id_twice(images):
    first, second = images.content["images"][:2]
    second["id"] = first["id"]
    return [str(images.file), first["file_name"], second["file_name"], str(first["id"])]


def outside_the_root(images):
    image = images.content["images"][2]
    outside = images.folder / "outside.png"
    images.path(image).rename(outside)
    image["file_name"] = "../outside.png"
    return [str(images.file), str(image["id"]), "../outside.png", "--allow-outside-root"]


def a_link_to_the_outside(images):
    image = images.content["images"][2]
    outside = images.folder / "outside.png"
    images.path(image).rename(outside)
    images.path(image).symlink_to(outside)
    return [str(images.file), str(image["id"]), image["file_name"]]


def a_class_too_many(images):
    images.content["categories"].append({"id": 6, "name": "star"})
    return ["MODEL.RETINANET.NUM_CLASSES is 5", "6 categories", "star"]


@pytest.mark.parametrize(
    "spoil",
    [negative_box, one_id_twice, outside_the_root, a_link_to_the_outside, a_class_too_many],
)
def test_bad_data_are_refused_before_anything_is_written(runs, images, spoil):
    expected = spoil(images)
    run = runs.start(images=images.save())
    assert run.wait() == 2
    message = run.text[run.text.index("DataError: ") :]
    for part in expected:
        assert part in message
    assert "Traceback" not in run.text
    assert [file.name for file in run.output.iterdir()] == [".train.lock"]


def test_two_processes_refuse_once(runs, images):
    negative_box(images)
    run = runs.start(*TWO_PROCESSES, images=images.save())
    assert run.wait() == 2
    assert run.text.count("DataError: ") == 1


def test_images_outside_are_read_if_asked_for(runs, images):
    outside_the_root(images)
    runs.start("--allow-outside-root", images=images.save(), SOLVER__MAX_ITER=1).succeed()


def cut_off(images):
    """Truncate one of the images that can be decoded in part."""
    image = images.content["images"][5]
    file = images.path(image)
    os.truncate(file, file.stat().st_size // 2)
    return image


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_cut_off_ends_the_run_with_its_id(runs, images, workers):
    image = cut_off(images)
    run = runs.start(images=images.folder, DATALOADER__NUM_WORKERS=workers)
    assert run.wait() == 1
    message = run.text[run.text.rindex("ImageReadError: ") :]
    assert f"image {image['id']}, {images.path(image)}, cannot be read" in message
    assert "truncated" in message


def test_a_limit_lets_it_go_on_without_the_image(runs, images):
    image = cut_off(images)
    run = runs.start(
        images=images.folder, MODEL__FOCAL__DATA__MAX_UNREADABLE_IMAGES=1, DATASETS__TEST="()"
    ).succeed()
    assert f"{images.path(image)}, cannot be read" in run.text
    assert "1 of 1" in run.text


def test_a_data_worker_that_is_killed_ends_the_run(runs):
    run = runs.start(plants=[hold_at(4)], DATALOADER__NUM_WORKERS=2, SOLVER__MAX_ITER=100)
    children = Path(f"/proc/{run.held()}/task/{run.pid}/children").read_text().split()
    assert len(children) == 2
    start = time.monotonic()
    os.kill(int(children[0]), signal.SIGKILL)
    run.go_on()
    assert run.wait() == 1
    assert time.monotonic() - start < SOON_S
    assert "killed by signal: Killed" in run.text
