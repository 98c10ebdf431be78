"""Checks of the datasets of a config before anything runs."""

import json
import logging
import math

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils import comm

from focal_plugin import get_cfg
from focal_plugin.data import (
    DataError,
    ShapesSpec,
    check_classes,
    check_datasets,
    describe_dataset,
    log_reports,
    register_coco_dataset,
    register_shapes,
)
from focal_plugin.data.registration import DatasetArgument
from focal_plugin.data.shapes.png import encode_png

CLASSES = ("dog", "cow", "cat")
BOTH_CHECKS = pytest.mark.parametrize("check", [check_classes, check_datasets])

PIXELS = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)


@pytest.fixture
def register(tmp_path):
    """Register datasets of one image and one object, with further boxes or other classes."""
    names = []

    def register(name, *boxes, classes=CLASSES, **changes):
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        (folder / "images/a.png").write_bytes(encode_png(PIXELS))
        rest = {"image_id": 1, "category_id": 1, "area": 4, "iscrowd": 0}
        content = {
            "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
            "categories": [{"id": i, "name": c} for i, c in enumerate(classes, start=1)],
            "annotations": [
                {"id": i, "bbox": box, **rest}
                for i, box in enumerate([[1, 1, 2, 2], *boxes], start=1)
            ],
            **changes,
        }
        (folder / "a.json").write_text(json.dumps(content))
        register_coco_dataset(DatasetArgument(name, folder / "a.json", folder / "images"))
        names.append(name)
        return folder

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def config(*, train=(), test=(), num_classes=3, check="normal"):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "FocalRetinaNet"
    cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
    cfg.MODEL.FOCAL.DATA.CHECK = check
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, test
    return cfg


NEGATIVE, INFINITE, EMPTY = [5, 5, -2, 2], [1, 1, math.inf, 2], [1, 1, 0, 2]


# Names and numbers of classes


@BOTH_CHECKS
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_unknown_dataset_suggests_the_nearest_name(check, split):
    with pytest.raises(KeyError, match="did you mean 'focal_shapes_train'"):
        check(config(**{split: ("focal_shape_train",)}))


@BOTH_CHECKS
def test_an_architecture_without_a_number_of_classes_passes(register, check):
    register("user")
    cfg = config(train=("user",))
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    check(cfg)


@BOTH_CHECKS
@pytest.mark.parametrize("meta_arch", ["FocalRetinaNet", "RetinaNet", "GeneralizedRCNN"])
@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_wrong_number_of_classes_is_an_error_that_states_both(
    register, check, meta_arch, split, num_classes
):
    register("user")
    cfg = config()
    cfg.MODEL.META_ARCHITECTURE = meta_arch
    node = cfg.MODEL.RETINANET if "RetinaNet" in meta_arch else cfg.MODEL.ROI_HEADS
    node.NUM_CLASSES = num_classes
    cfg.DATASETS[split] = ("user",)
    with pytest.raises(ValueError, match=rf"NUM_CLASSES is {num_classes}.* has 3 classes"):
        check(cfg)
    node.NUM_CLASSES = 3
    check(cfg)


def test_model_metadata_and_annotation_file_are_stated_side_by_side(register):
    folder = register("user")
    content = json.loads((folder / "a.json").read_text())
    content["categories"].append({"id": 4, "name": "hen"})
    (folder / "a.json").write_text(json.dumps(content))
    said = (
        r"NUM_CLASSES is 3, but dataset 'user' has 3 classes: dog, cow, cat; "
        r"its annotation file has 4 categories: dog, cow, cat, hen"
    )
    with pytest.raises(DataError, match=said):
        check_datasets(config(train=("user",)))


def test_the_check_of_classes_alone_draws_nothing_and_reads_nothing(tmp_path, register):
    register("user", NEGATIVE)
    register_shapes("undrawn", ShapesSpec(images=2, seed=1), tmp_path / "undrawn")
    try:
        check_classes(config(train=("undrawn",), num_classes=5))
        assert not (tmp_path / "undrawn").exists()
        check_classes(config(train=("user",)))
        (report,) = check_datasets(config(train=("undrawn",), num_classes=5))
        assert report.facts["images"] == 2
    finally:
        DatasetCatalog.remove("undrawn")
        MetadataCatalog.remove("undrawn")


@pytest.mark.parametrize("classes", [("dog", "cat", "cow"), ("Dog", "cow", "cat")])
def test_other_classes_or_another_order_than_in_training_is_a_warning(register, classes):
    register("train")
    register("val", classes=classes)
    train, val = check_datasets(config(train=("train",), test=("val",)))
    assert train.counts == {}
    assert val.counts == {"classes-differ": 1}
    assert ", ".join(classes) in val.findings[0].message
    assert "dog, cow, cat" in val.findings[0].message


# Errors, and where they apply


def test_each_dataset_is_read_once_and_has_a_report_under_its_name(register):
    register("train")
    register("val")
    reports = check_datasets(config(train=("train", "val"), test=("val",)))
    assert [report.name for report in reports] == ["train", "val"]
    assert reports[0].facts == {k: v for k, v in describe_dataset("train").items() if k != "name"}


@pytest.mark.parametrize(("box", "rule"), [(NEGATIVE, "box-negative"), (INFINITE, "box-infinite")])
def test_an_impossible_box_is_an_error_unless_it_is_dropped_in_training(register, box, rule):
    register("user", box)
    for check in ("normal", "strict"):
        with pytest.raises(DataError, match=rf"(?s)user.*{rule} \(1\).*annotation 2 of image 1"):
            check_datasets(config(train=("user",), check=check))
    (report,) = check_datasets(config(train=("user",), check="drop"))
    assert (report.num("error"), report.num("warning")) == (0, 1)


@pytest.mark.parametrize("splits", [{"test": ("user",)}, {"train": ("user",), "test": ("user",)}])
def test_nothing_is_dropped_from_what_is_evaluated(register, splits):
    register("user", NEGATIVE)
    with pytest.raises(DataError, match="box-negative"):
        check_datasets(config(**splits, check="drop"))


def test_a_warning_is_an_error_where_the_config_is_strict(register):
    register("user", EMPTY)
    check_datasets(config(train=("user",)))
    with pytest.raises(DataError, match="box-empty"):
        check_datasets(config(train=("user",), check="strict"))


def test_an_unknown_kind_of_check_lists_the_choices():
    with pytest.raises(ValueError, match=r"DATA\.CHECK must be one of 'normal', 'strict', 'drop'"):
        check_datasets(config(check="lax"))


def test_keys_required_by_the_evaluation_must_be_in_test_sets(register):
    bare = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}]
    register("user", annotations=bare)
    check_datasets(config(train=("user",)))
    with pytest.raises(DataError, match="annotation-area"):
        check_datasets(config(test=("user",)))


@pytest.mark.parametrize("box", [[float("nan"), 1, 2, 2], [1, 1, float("nan"), 2]])
def test_a_nan_in_a_box_is_an_error_in_test_sets(register, box):
    register("user", box)
    check_datasets(config(train=("user",)))
    with pytest.raises(DataError, match="box-nan"):
        check_datasets(config(test=("user",)))


def test_no_object_in_any_training_set_is_an_error_unless_empty_images_are_kept(register):
    register("empty", annotations=[])
    register("full")
    cfg = config(train=("empty",))
    with pytest.raises(DataError, match="FILTER_EMPTY_ANNOTATIONS"):
        check_datasets(cfg)
    check_datasets(config(train=("empty", "full")))
    check_datasets(config(train=("full",), test=("empty",)))
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    check_datasets(cfg)


def test_files_outside_the_image_folder_are_read_only_if_allowed(register):
    outside = [{"id": 1, "file_name": "../a.json", "width": 8, "height": 8}]
    register("user", images=outside)
    with pytest.raises(DataError, match="image-outside-root"):
        check_datasets(config(train=("user",)))
    check_datasets(config(train=("user",)), allow_outside_root=True)


def test_missing_annotations_are_named_with_their_dataset(register):
    folder = register("user")
    (folder / "a.json").unlink()
    for splits in ({"train": ("user",)}, {"test": ("user",)}):
        with pytest.raises(FileNotFoundError, match=r"'user': file not found: .*a\.json"):
            check_datasets(config(**splits))


def test_an_evaluation_does_not_require_the_training_sets(register):
    folder = register("train")
    register("val", NEGATIVE)
    (folder / "a.json").unlink()
    cfg = config(train=("train",))
    assert check_datasets(cfg, training=False) == []
    assert cfg.DATASETS.TRAIN == ("train",)
    cfg.MODEL.RETINANET.NUM_CLASSES = 2
    with pytest.raises(ValueError, match="'train' has 3 classes"):
        check_datasets(cfg, training=False)
    with pytest.raises(DataError, match="box-negative"):
        check_datasets(config(train=("train",), test=("val",)), training=False)


def test_a_dataset_without_a_json_is_loaded_and_checked():
    image = {"file_name": "nowhere.png", "image_id": 1, "annotations": []}
    DatasetCatalog.register("no_json", lambda: [image])
    try:
        with pytest.raises(DataError, match=r"(?s)no_json.*image-missing"):
            check_datasets(config(test=("no_json",)))
    finally:
        DatasetCatalog.remove("no_json")
        MetadataCatalog.remove("no_json")


@pytest.mark.parametrize("ids", [{}, {"image_id": None}, {"image_id": np.int64(1)}], ids=str)
def test_only_an_evaluation_needs_the_ids_of_dicts(tmp_path, ids):
    (tmp_path / "a.png").write_bytes(encode_png(PIXELS))
    box = {"bbox": [1, 1, 2, 2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    image = {"file_name": str(tmp_path / "a.png"), "annotations": [box], **ids}
    DatasetCatalog.register("no_json", lambda: [image])
    try:
        (report,) = check_datasets(config(train=("no_json",)))
        assert report.severity_of("image-id") == "note"
        with pytest.raises(DataError, match=r"(?s)no_json.*image-id"):
            check_datasets(config(test=("no_json",)))
    finally:
        DatasetCatalog.remove("no_json")
        MetadataCatalog.remove("no_json")


def test_other_formats_are_not_checked_by_coco_rules(register):
    folder = register("user")
    del MetadataCatalog.get("user").evaluator_type
    MetadataCatalog.get("user").evaluator_type = "lvis"
    content = json.loads((folder / "a.json").read_text())
    del content["annotations"][0]["iscrowd"]  # missing in LVIS
    (folder / "a.json").write_text(json.dumps(content))
    (report,) = check_datasets(config(test=("user",)))
    assert report.counts == {}
    assert report.facts["images"] == 1


# Processes and logs


def test_only_the_main_process_reads_and_the_others_wait_for_it(register, monkeypatch):
    register("user", NEGATIVE)
    waited = []
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "synchronize", lambda: waited.append(True))
    assert check_datasets(config(train=("user",))) == []
    assert waited == [True]


def test_the_log_has_one_line_for_each_dataset_and_its_warnings(register, caplog):
    register("train")
    register("val", EMPTY, EMPTY)
    with caplog.at_level(logging.INFO):
        log_reports(check_datasets(config(train=("train",), test=("val",))))
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.messages[0] == "train: 1 images, 1 objects, 0 errors, 0 warnings"
    assert caplog.messages[1].startswith("val: 1 images, 3 objects, 0 errors, 2 warnings\n")
    assert "annotation 2 of image 1" in caplog.messages[1]
