"""focal_plugin/init/split.py: one COCO file becomes two."""

import pytest

from focal_plugin.data import DataError
from focal_plugin.init.split import one_sided_classes, split_coco

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
    train, val, copies = split_coco(content, tmp_path)
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
        train, val, copies = split_coco(content, tmp_path, seed=seed)
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
    parts = split_coco(content, tmp_path)[:2]
    assert sum(len(part["annotations"]) for part in parts) == 6
    assert one_sided_classes(parts) == []


def test_a_class_of_one_image_is_named(tmp_path):
    content = write(tmp_path, [bytes([i]) for i in range(10)], [[7]] * 9 + [[7, 3]])
    assert one_sided_classes(split_coco(content, tmp_path)[:2]) == ["b"]


def test_too_few_different_images_are_an_error(tmp_path):
    content = write(tmp_path, [b"same"] * 5, [[7]] * 5)
    with pytest.raises(DataError, match=r"too few images.*: 1 without copies; give --val"):
        split_coco(content, tmp_path)
