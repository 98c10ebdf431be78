"""Tests of the arrays that the audit is computed from."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from focal_plugin import get_cfg
from focal_plugin.audit.object_table import CROWD, read_test_set, read_training_set
from focal_plugin.data import DatasetArgument, register_coco_dataset

CONTENT = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 30, "width": 40},
        {"id": 3, "file_name": "b.png", "height": 50, "width": 60},
        {"id": 5, "file_name": "c.png", "height": 10, "width": 20},
    ],
    "categories": [{"id": 9, "name": "late"}, {"id": 2, "name": "early"}],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 9, "bbox": [1, 2, 3, 4], "area": 12},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 2,
            "bbox": [0, 0, 5.5, 6],
            "area": 33,
            "iscrowd": 0,
        },
        {"id": 3, "image_id": 5, "category_id": 9, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1},
    ],
}


@pytest.fixture
def dataset(tmp_path):
    """Register a dataset of three images, one of them without annotations."""
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(CONTENT))
    register_coco_dataset(DatasetArgument("audited", file, tmp_path))
    yield "audited"
    DatasetCatalog.remove("audited")
    MetadataCatalog.remove("audited")


def test_a_table_has_boxes_as_corners_and_classes_by_index(dataset):
    table = read_test_set(dataset)
    assert table.class_names == ("early", "late")
    names = [file.rpartition("/")[2] for file in table.file_names]
    rows = {
        (names[image], tuple(box), int(label))
        for image, box, label in zip(table.image, table.boxes, table.classes, strict=True)
    }
    assert rows == {
        ("c.png", (1, 2, 4, 6), 1),
        ("a.png", (0, 0, 5.5, 6), 0),
        ("c.png", (0, 0, 9, 9), CROWD),
    }
    assert dict(zip(names, table.image_sizes.tolist(), strict=True)) == {
        "a.png": [30, 40],
        "b.png": [50, 60],
        "c.png": [10, 20],
    }
    assert table.objects_per_class(3).tolist() == [1, 1, 0]


def test_a_training_set_is_filtered_as_in_training(dataset):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (dataset, dataset)
    table = read_training_set(cfg)
    assert len(table.file_names) == 4  # without the empty image, twice
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert len(read_training_set(cfg).file_names) == 6


def test_a_dataset_without_annotations_has_empty_arrays(tmp_path, dataset):
    DatasetCatalog.pop(dataset)
    DatasetCatalog.register(dataset, lambda: [{"file_name": "x", "height": 4, "width": 5}])
    table = read_test_set(dataset)
    assert table.boxes.shape == (0, 4)
    assert table.image_sizes.shape == (1, 2)
    assert np.array_equal(table.objects_per_class(2), [0, 0])
