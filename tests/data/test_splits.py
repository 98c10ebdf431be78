"""focal_plugin/data/splits.py: one COCO file becomes two, or the folds of a cross-validation."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from focal_plugin.data import (
    DataError,
    DatasetArgument,
    coco_file_of,
    fold_coco,
    one_sided_classes,
    registered,
    split_coco,
)

CATEGORIES = [{"id": 7, "name": "a"}, {"id": 3, "name": "b", "supercategory": "x"}]


def write(folder, contents, classes):
    """A COCO file of images with these bytes, each with an object of these category ids."""
    for i, content in enumerate(contents):
        (folder / f"{i}.png").write_bytes(content)
    objects = [(i, c) for i, of_image in enumerate(classes) for c in of_image]
    return {
        "info": {"year": 2020},
        "licenses": [{"id": 1}],
        "images": [{"id": f"i{i}", "file_name": f"{i}.png"} for i in range(len(contents))],
        "annotations": [
            {"id": n, "image_id": f"i{i}", "category_id": c, "score": n}
            for n, (i, c) in enumerate(objects)
        ],
        "categories": CATEGORIES,
    }


def test_every_image_and_annotation_is_in_one_part_with_all_fields(tmp_path):
    classes = [[7], [7, 3], [], [3, 3]] * 5
    content = write(tmp_path, [bytes([i]) for i in range(20)], classes)
    train, val, copies = split_coco(content, tmp_path, share=0.2)
    assert copies == 0
    assert len(val["images"]) == 4
    for key in ("images", "annotations"):
        both = [*train[key], *val[key]]
        assert sorted(both, key=lambda x: str(x["id"])) == sorted(
            content[key], key=lambda x: str(x["id"])
        )
    for part in (train, val):
        assert {k: part[k] for k in ("info", "licenses", "categories")} == {
            k: content[k] for k in ("info", "licenses", "categories")
        }
        ids = {image["id"] for image in part["images"]}
        assert {x["image_id"] for x in part["annotations"]} <= ids
        assert {x["category_id"] for x in part["annotations"]} == {3, 7}
    assert one_sided_classes((train, val)) == []


def test_copies_of_an_image_stay_together(tmp_path):
    content = write(tmp_path, [bytes([i % 10]) for i in range(30)], [[7]] * 30)
    for seed in range(5):
        train, val, copies = split_coco(content, tmp_path, share=0.2, seed=seed)
        assert copies == 20
        assert len(val["images"]) == 6

        def kinds(part):
            return {int(image["file_name"].split(".")[0]) % 10 for image in part["images"]}

        assert not kinds(train) & kinds(val)


@pytest.mark.parametrize("mark", ["iscrowd", "ignore"])
def test_a_region_is_no_object(tmp_path, mark):
    content = write(tmp_path, [b"a", b"b", b"c", b"d", b"e"], [[7], [7], [7], [7], [7]])
    content["annotations"].append(
        {"id": 99, "image_id": "i0", "category_id": 3, mark: 1, "score": 0}
    )
    parts = split_coco(content, tmp_path, share=0.2)[:2]
    assert sum(len(part["annotations"]) for part in parts) == 6
    assert one_sided_classes(parts) == []


def test_a_class_of_one_image_is_named(tmp_path):
    content = write(tmp_path, [bytes([i]) for i in range(10)], [[7]] * 9 + [[7, 3]])
    assert one_sided_classes(split_coco(content, tmp_path, share=0.2)[:2]) == ["b"]


def test_too_few_different_images_are_an_error(tmp_path):
    content = write(tmp_path, [b"same"] * 5, [[7]] * 5)
    with pytest.raises(DataError, match=r"too few images for 2 parts: 1 without copies"):
        split_coco(content, tmp_path, share=0.2)


def test_each_image_is_in_the_validation_part_of_one_fold(tmp_path):
    content = write(tmp_path, [bytes([i // 2]) for i in range(24)], [[7], [7], [7, 3], [7, 3]] * 6)
    splits = fold_coco(content, tmp_path, folds=4, seed=3)
    ids = [image["id"] for image in content["images"]]
    tested = [image["id"] for split in splits for image in split.val["images"]]
    assert sorted(tested) == sorted(ids)
    for split in splits:
        val, train = (
            [image["id"] for image in part["images"]] for part in (split.val, split.train)
        )
        assert len(val) == 6
        assert train == [name for name in ids if name not in val]
        assert sum(x["category_id"] == 3 for x in split.val["annotations"]) in (2, 4)
        assert {i // 2 for i in map(ids.index, val)}.isdisjoint(
            i // 2 for i in map(ids.index, train)
        )


def test_the_seed_decides_the_folds(tmp_path):
    content = write(tmp_path, [bytes([i]) for i in range(20)], [[7]] * 20)
    first, again, other = (fold_coco(content, tmp_path, folds=5, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_more_folds_than_different_images_are_an_error(tmp_path):
    content = write(tmp_path, [b"a", b"b", b"b"], [[7]] * 3)
    with pytest.raises(DataError, match="too few images for 3 parts: 2 without copies"):
        fold_coco(content, tmp_path, folds=3)


def test_the_file_of_a_dataset_is_the_one_that_was_given(tmp_path):
    content = write(tmp_path, [b"a"], [[7, 3]])
    file = tmp_path / "a.json"
    for image in content["images"]:
        image.update(width=8, height=8)
    for annotation in content["annotations"]:
        annotation.update(bbox=[1, 1, 4, 4], area=16, iscrowd=0)
    file.write_text(json.dumps(content))
    given = DatasetArgument("folded", file, tmp_path)
    with registered([given], ["b"]):  # the annotations of "b" become crowds in another file
        assert MetadataCatalog.get("folded").json_file != str(file)
        assert coco_file_of("folded") == given


def test_a_dataset_without_a_coco_file_is_an_error():
    name = "without_a_file"
    DatasetCatalog.register(name, list)
    try:
        with pytest.raises(DataError, match=f"{name} cannot be split: it has no COCO file"):
            coco_file_of(name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
