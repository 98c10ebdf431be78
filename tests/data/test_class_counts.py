import json

import pytest
from detectron2.data import DatasetCatalog

from focal_plugin.data import count_images, count_objects


@pytest.fixture
def register():
    """Register images as a dataset, each a list of (category_id, iscrowd); remove it afterwards."""
    names = []

    def add(name, images):
        annotations = [
            {"annotations": [{"category_id": c, "iscrowd": crowd} for c, crowd in image]}
            for image in images
        ]
        DatasetCatalog.register(name, lambda: annotations)
        names.append(name)

    yield add
    for name in names:
        DatasetCatalog.remove(name)


def test_objects_of_all_datasets_count_and_crowds_do_not(register):
    register("counts_a", [[(0, 0), (2, 0), (2, 0)], []])
    register("counts_b", [[(2, 0), (0, 1)]])
    assert count_objects(["counts_a", "counts_b"], num_classes=4) == [1, 0, 3, 0]


def test_an_image_counts_once_for_each_of_its_classes(register):
    register("counts_a", [[(0, 0), (2, 0), (2, 0)], []])
    register("counts_b", [[(2, 0), (0, 1)], [(2, 0), (2, 0)]])
    assert count_images(["counts_a", "counts_b"], num_classes=4) == [1, 0, 3, 0]
    assert count_objects(["counts_a", "counts_b"], num_classes=4) == [1, 0, 5, 0]


def test_a_class_unknown_to_the_model_is_an_error(register):
    register("counts_c", [[(5, 0)]])
    with pytest.raises(ValueError, match=r"classes \[5\], the model has 0\.\.2"):
        count_objects(["counts_c"], num_classes=3)


def test_counts_are_those_of_the_json(tiny_shapes):
    (file,) = tiny_shapes.glob("*.json")
    content = json.loads(file.read_text())
    ids = [category["id"] for category in content["categories"]]
    expected = [
        sum(a["category_id"] == i and not a["iscrowd"] for a in content["annotations"]) for i in ids
    ]
    assert sum(expected) > 0
    assert count_objects(["tiny_shapes"], num_classes=5) == expected
