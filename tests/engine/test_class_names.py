"""Names of the classes: from the dataset or from the user."""

import pytest
from detectron2.data import MetadataCatalog

from focal_plugin import get_cfg
from focal_plugin.engine.class_names import check_class_names, settle_class_names


@pytest.fixture
def cfg(tiny_shapes):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "FocalRetinaNet"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("tiny_shapes",), ("tiny_shapes",)
    cfg.MODEL.RETINANET.NUM_CLASSES = 5
    return cfg


@pytest.fixture
def classes(tiny_shapes):
    return list(MetadataCatalog.get("tiny_shapes").thing_classes)


@pytest.mark.parametrize(("training", "unused"), [(True, "TEST"), (False, "TRAIN")])
def test_empty_names_become_those_of_the_dataset_in_use(cfg, classes, training, unused):
    cfg.DATASETS[unused] = ("not_registered",)
    assert settle_class_names(cfg, training=training) is None
    assert classes == cfg.MODEL.FOCAL.CLASS_NAMES
    check_class_names(cfg)


def test_the_names_of_a_dataset_without_metadata_are_in_its_file(cfg, classes, tiny_shapes):
    file = str(tiny_shapes / "annotations.json")
    cfg.DATASETS.TRAIN = ("only a file",)
    MetadataCatalog.get("only a file").json_file = file
    try:
        settle_class_names(cfg, training=True)
    finally:
        MetadataCatalog.pop("only a file")
    assert classes == cfg.MODEL.FOCAL.CLASS_NAMES


def test_a_class_may_have_another_name_which_is_said(cfg, classes):
    renamed = ["round", *classes[1:]]
    cfg.MODEL.FOCAL.CLASS_NAMES = renamed
    said = settle_class_names(cfg, training=True)
    assert said.endswith(f"renames classes of tiny_shapes: {classes[0]} -> round")
    assert renamed == cfg.MODEL.FOCAL.CLASS_NAMES


def test_names_in_another_order_are_refused(cfg, classes):
    cfg.MODEL.FOCAL.CLASS_NAMES = [classes[1], classes[0], *classes[2:]]
    with pytest.raises(ValueError, match=f"names class 0 '{classes[1]}', but .* class 1") as error:
        settle_class_names(cfg, training=True)
    assert f"keep the order {', '.join(classes)}" in str(error.value)


@pytest.mark.parametrize(
    ("architecture", "key"),
    [("FocalRetinaNet", "RETINANET"), ("GeneralizedRCNN", "ROI_HEADS")],
)
def test_another_number_of_names_than_classes_is_refused(cfg, architecture, key):
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL[key].NUM_CLASSES = 3
    cfg.MODEL.FOCAL.CLASS_NAMES = ["a", "b"]
    with pytest.raises(ValueError, match=rf"has 2 names, but MODEL\.{key}\.NUM_CLASSES is 3"):
        check_class_names(cfg)


def test_a_name_is_text(cfg):
    cfg.MODEL.FOCAL.CLASS_NAMES = ["a", 1, "b", "c", "d"]
    with pytest.raises(ValueError, match="must be a list of names, got 1 in it"):
        check_class_names(cfg)
