"""Tests of copies across splits, of class drift and of decidable classes."""

import os

import numpy as np
import pytest
from PIL import Image

from focal_plugin.audit import near_copies
from focal_plugin.audit.class_shares import (
    class_drift,
    count_by_class,
    decidable_classes,
    half_width,
)
from focal_plugin.audit.file_copies import SAMPLE, UNREADABLE, content_ids
from focal_plugin.audit.near_copies import near_copies_of, near_copies_within, read_thumbnails
from focal_plugin.audit.split_sentences import split_sentences
from focal_plugin.audit.splits import split_facts

from ..each import each
from .reference import table_of_boxes


def table_of_files(files, *, name="made", class_names=("a", "b", "c"), classes=()):
    """Return the table of image files, with one object of each of some classes in the first."""
    images = [[(1, 1, 9, 9, c) for c in classes], *([] for _ in files[1:])]
    table = table_of_boxes(images, class_names=class_names)
    return table._replace(names=(name,), file_names=[str(file) for file in files])


def write_files(folder, contents):
    folder.mkdir(exist_ok=True)
    files = [folder / f"{folder.name}_{i}.jpg" for i in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    return files


def texts(facts, severity):
    return [s.text for s in split_sentences(facts) if s.severity == severity]


def random_bytes(number, *, length=200, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.bytes(length) for _ in range(number)]


def test_sixty_of_sixty_copies_under_other_names_are_found_and_red(tmp_path):
    contents = random_bytes(100)  # all of one size
    train = table_of_files(write_files(tmp_path / "train", contents), classes=[0])
    val = write_files(tmp_path / "val", contents[20:80][::-1])
    facts = split_facts(train, [table_of_files(val, name="val", classes=[0])], images=False)
    (test,) = facts["tests"]
    assert (test["images"], test["copies"]["images"]) == (60, 60)
    pair = [str(tmp_path / "val" / "val_0.jpg"), str(tmp_path / "train" / "train_79.jpg")]
    assert test["copies"]["pairs"][0] == pair
    assert len(test["copies"]["pairs"]) == 20
    assert test["near_copies"] is None
    assert facts["train"]["copies"]["images"] == 0
    assert texts(facts, "red") == [
        "60 of 60 images of val are copies of training images, such as val_0.jpg of train_79.jpg. "
        "Its AP measures memory; split again."
    ]


def test_an_image_that_both_sets_list_is_a_copy(tmp_path):
    files = write_files(tmp_path / "images", random_bytes(3))
    facts = split_facts(table_of_files(files), [table_of_files(files[:1])], images=False)
    assert facts["tests"][0]["copies"]["images"] == 1


def test_copies_within_the_training_set_count_without_the_first_and_without_repeated_lists(
    tmp_path,
):
    one, other = random_bytes(2)
    files = write_files(tmp_path / "images", [one, other, one, one])
    facts = split_facts(table_of_files([*files, *files]), [], images=False)
    assert (facts["train"]["images"], facts["train"]["copies"]["images"]) == (4, 2)
    assert facts["train"]["copies"]["pairs"][0] == [str(files[2]), str(files[0])]
    assert texts(facts, "yellow")[0].startswith("2 of 4 training images are copies of others")


def test_files_that_differ_only_outside_the_sample_are_no_copies(tmp_path):
    content = bytearray(5 * SAMPLE)
    files = write_files(tmp_path / "images", [content, b"x" + content[1:], content])
    ids = content_ids([str(file) for file in files]).ids
    assert ids[0] == ids[2] != ids[1]


def test_a_file_that_cannot_be_read_is_named_and_nothing_is_claimed_about_it(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    missing = [tmp_path / "missing.jpg", tmp_path / "folder.jpg", tmp_path / "pipe.jpg", "a\0b.jpg"]
    assert set(content_ids([str(file) for file in missing]).ids) == {UNREADABLE}
    table = table_of_files(missing, classes=[0])
    facts = split_facts(table, [table], images=True)
    assert facts["unreadable"]["images"] == 4
    assert facts["unreadable"]["files"][0]["reason"] == "No such file or directory"
    assert facts["tests"][0]["copies"]["images"] == 0
    (text,) = [text for text in texts(facts, "yellow") if "compared" in text]
    assert text.startswith("4 image files cannot be compared, such as ")
    assert "missing.jpg: No such file or directory." in text
    assert not any("training image" in text for text in texts(facts, "green"))


def picture(seed, *, size=(64, 48)):
    """Return a picture of smooth blobs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


CHANGES = {
    "recompressed": lambda image, file: image.save(file, "JPEG", quality=20),
    "another format": lambda image, file: image.save(file, "PNG"),
    "smaller": lambda image, file: image.resize((40, 30)).save(file, "PNG"),
    "squeezed": lambda image, file: image.resize((50, 50)).save(file, "PNG"),
    "darker": lambda image, file: image.point(lambda value: 0.6 * value).save(file, "PNG"),
    "gray": lambda image, file: image.convert("L").save(file, "PNG"),
    "16 bits": lambda image, file: Image.fromarray(
        np.asarray(image.convert("L")).astype(np.uint16) * 200 + 7
    ).save(file, "PNG"),
}


def test_a_changed_copy_is_near_and_another_picture_is_not(tmp_path):
    train = [tmp_path / f"train_{i}.jpg" for i in range(10)]
    for seed, file in enumerate(train):
        picture(seed).save(file, quality=95)
    val = [tmp_path / f"val_{i}" for i in range(len(CHANGES) + 1)]
    for seed, (change, file) in enumerate(zip(CHANGES.values(), val, strict=False)):
        change(picture(seed), file)
    picture(99).save(val[-1], "PNG")
    facts = split_facts(table_of_files(train), [table_of_files(val)], images=True)
    (test,) = facts["tests"]
    expected = [[str(val[i]), str(train[i])] for i in range(len(CHANGES))]
    assert test["near_copies"] == {"images": len(CHANGES), "pairs": expected}
    assert test["copies"]["images"] == facts["train"]["near_copies"]["images"] == 0
    assert facts["unreadable"]["images"] == 0


def test_a_copy_is_no_near_copy_and_a_file_without_a_picture_is_named(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for file in files[:2]:
        picture(0).save(file)
    picture(0).resize((32, 24)).save(files[2])
    files[3].write_bytes(b"no image")
    files[4].write_bytes(b"")
    facts = split_facts(table_of_files(files), [], images=True)
    assert facts["train"]["copies"]["pairs"] == [[str(files[1]), str(files[0])]]
    assert facts["train"]["near_copies"]["pairs"] == [[str(files[2]), str(files[0])]]
    assert [entry["file"] for entry in facts["unreadable"]["files"]] == [*map(str, files[3:])]


def test_pictures_that_show_nothing_are_no_near_copies(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(3)]
    faint = np.tile(np.arange(24, dtype=np.uint8) // 6, (20, 1))
    for pixels, file in zip((faint + 80, faint + 160, 0 * faint), files, strict=True):
        Image.fromarray(pixels).save(file)
    assert near_copies_within(read_thumbnails([*map(str, files)])) == []


@pytest.mark.parametrize("within", [True, False])
def test_the_best_match_is_that_of_all_pairs(monkeypatch, within):
    monkeypatch.setattr(near_copies, "ROWS", 5)
    monkeypatch.setattr(near_copies, "COLUMNS", 3)
    monkeypatch.setattr(near_copies, "SMALL_CORRELATION", 0.3)
    rng = np.random.default_rng(0)
    images, others = (rng.normal(size=(n, 8)).astype(np.float32) for n in (17, 13))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    all_pairs = np.tril(images @ images.T, -1) if within else images @ others.T
    expected = [(i, row.argmax()) for i, row in enumerate(all_pairs) if row.max() > 0.3]
    assert len(expected) > 5
    assert [*near_copies._best_matches(images, None if within else others)] == expected


def test_a_near_copy_among_others_is_found_by_its_file(tmp_path):
    for name, seed in (("a", 1), ("b", 2), ("c", 2)):
        picture(seed).save(tmp_path / f"{name}.jpg", quality=80 if name == "c" else 95)
    one, *others = (read_thumbnails([str(tmp_path / f"{name}.jpg")]) for name in "cab")
    assert near_copies_of(one, others[0]) == []
    assert near_copies_of(one, others[1]) == [(one.files[0], others[1].files[0])]


def test_total_variation_is_half_the_sum_of_the_differences():
    drift = class_drift(["a", "b", "c"], np.array([6, 4, 0]), np.array([1, 2, 1]))
    assert drift["total_variation"] == pytest.approx((0.35 + 0.1 + 0.25) / 2)
    assert (drift["only_train"], drift["only_test"]) == ([], ["c"])
    assert class_drift(["a"], np.array([3]), np.array([0]))["total_variation"] is None


def test_the_expected_drift_is_that_of_random_samples():
    rng = np.random.default_rng(0)
    shares, sizes = np.array([0.5, 0.3, 0.15, 0.05]), (2000, 400)
    samples = [[rng.multinomial(size, shares) for size in sizes] for _ in range(300)]
    drifts = [class_drift(list("abcd"), *pair) for pair in samples]
    measured = np.mean([drift["total_variation"] for drift in drifts])
    assert np.mean([drift["expected"] for drift in drifts]) == pytest.approx(measured, rel=0.05)


@each("objects, expected", [(69, 0.118), (5, 0.438), (1, 0.5), (0, None)])
def test_the_half_width_is_that_of_a_recall_of_one_half(objects, expected):
    assert half_width(objects) == (None if expected is None else pytest.approx(expected, abs=5e-4))


def test_classes_are_the_same_if_their_names_are():
    tables = [
        table_of_files(["x"], class_names=("b", "a"), classes=[0, 0, 1]),
        table_of_files(["x"], class_names=("a", "c"), classes=[0, 1]),
    ]
    names, counts = count_by_class(tables)
    assert names == ["b", "a", "c"]
    assert counts.tolist() == [[2, 1, 0], [0, 1, 1]]


def test_classes_without_names_are_the_same_if_their_indices_are():
    tables = [
        table_of_files(["x"], class_names=("b", "a"), classes=[0]),
        table_of_files(["x"], class_names=(), classes=[1, 1]),
    ]
    names, counts = count_by_class(tables)
    assert names == ["b", "a"]
    assert counts.tolist() == [[1, 0], [0, 2]]


def test_the_class_with_the_fewest_test_objects_is_decided_worst():
    rows = decidable_classes(["a", "b", "c"], np.array([5, 0, 9]), np.array([40, 0, 0]))
    assert [(row["name"], row["test"]) for row in rows] == [("c", 0), ("a", 40)]
    assert rows[0]["half_width"] is None


def test_sentences_name_missing_classes_and_few_objects(tmp_path):
    files = write_files(tmp_path / "images", random_bytes(2))
    train = table_of_files(files[:1], classes=[0] * 60 + [1] * 40)
    val = table_of_files(files[1:], name="val", classes=[0] * 69 + [2] * 31)
    facts = split_facts(train, [val], images=False)
    assert texts(facts, "red") == [
        "c has objects in val, but none in training, so its AP will be 0."
    ]
    yellow = texts(facts, "yellow")
    assert yellow[0] == "b has no objects in val, so its AP stays unknown."
    assert "40% of the objects of val would have to change their class" in yellow[1]
    assert yellow[2] == (
        "c: 31 objects in val: a recall of .5 is known to ±18 points. Few objects, too: a (69)."
    )
    assert texts(facts, "green") == ["No image of val has the bytes of a training image."]
