"""Tests of the audit of a config, against a count of the built-in dataset written here."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from focal_plugin.audit import audit_config

from .reference import config

SIZES = {8: (13, 16, 20), 16: (26, 32, 40), 32: (52, 64, 80)}
"""Anchor sizes of the small RetinaNet, by stride."""


def anchors_by_hand(height, width):
    """Return the anchors of an image and the stride of each, (R, 4) and (R,)."""
    boxes, strides = [], []
    for stride, sizes in SIZES.items():
        for y in range(0, height, stride):
            for x in range(0, width, stride):
                for size in sizes:
                    for ratio in (0.5, 1, 2):
                        w = size / ratio**0.5
                        boxes.append((x - w / 2, y - w * ratio / 2, x + w / 2, y + w * ratio / 2))
                        strides.append(stride)
    return np.array(boxes), np.array(strides)


def iou_by_hand(objects, anchors):
    """Return the IoUs (M, R)."""
    low = np.maximum(objects[:, None, :2], anchors[None, :, :2])
    high = np.minimum(objects[:, None, 2:], anchors[None, :, 2:])
    overlap = (high - low).clip(min=0).prod(axis=2)
    area = [(x[:, 2:] - x[:, :2]).prod(axis=1) for x in (objects, anchors)]
    return overlap / (area[0][:, None] + area[1] - overlap)


def count_by_hand(dicts):
    """Return best IoUs, classes, positives of each object by stride, and ignored anchors."""
    best, classes, positives, ignored = [], [], [], []
    anchors, strides = anchors_by_hand(64, 64)
    for image in dicts:
        own = [x for x in image["annotations"] if not x["iscrowd"]]
        if not own:
            continue
        boxes = np.array([x["bbox"] for x in own], dtype=float)
        boxes[:, 2:] += boxes[:, :2]
        iou = iou_by_hand(boxes, anchors)
        top = iou.max(axis=0)
        is_best = (np.abs(iou - iou.max(axis=1, keepdims=True)) < 1e-6).any(axis=0)
        positive = (top >= 0.5) | is_best
        owner = iou.argmax(axis=0)
        best += iou.max(axis=1).tolist()
        classes += [x["category_id"] for x in own]
        positives += [
            [(positive & (owner == m) & (strides == stride)).sum() for stride in SIZES]
            for m in range(len(own))
        ]
        ignored.append(((top >= 0.4) & ~positive).sum())
    return np.array(best), np.array(classes), np.array(positives), sum(ignored)


@pytest.fixture(scope="module", autouse=True)
def no_proposal():
    """Leave out the search for anchors, which has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        name = "focal_plugin.audit.audit.propose_anchors"
        patch.setattr(name, lambda *_, **__: {"status": "enough"})
        yield


@pytest.fixture(scope="module")
def audit(tiny_shapes, no_proposal):
    return audit_config(built_in())


def built_in():
    cfg = config(SOLVER__IMS_PER_BATCH=4)
    cfg.DATASETS.TRAIN = ("tiny_shapes",)
    cfg.MODEL.RETINANET.NUM_CLASSES = 5
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TRAIN = 64, (64,)
    return cfg


def test_figures_of_the_built_in_dataset_are_those_of_an_independent_count(audit):
    dicts = DatasetCatalog.get("tiny_shapes")
    best, classes, positives, ignored = count_by_hand(dicts)
    anchors = audit.facts["anchors"]
    assert audit.facts["images"]["objects"] == len(classes)
    assert anchors["recall"] == {
        f"{iou}": pytest.approx((best >= iou).mean()) for iou in (0.4, 0.5, 0.7)
    }
    assert anchors["best_iou"]["p50"] == pytest.approx(np.median(best))
    assert anchors["positives"] == positives.sum()
    assert anchors["without_positives"] == (positives.sum(axis=1) == 0).mean()
    assert anchors["positives_by_level"] == pytest.approx(positives.sum(0) / positives.sum())
    for label, row in enumerate(anchors["per_class"]):
        own = positives[classes == label].sum()
        assert row["positives"] == own
        if own:
            assert row["positives_over_objects"] == pytest.approx(
                own / positives.sum() / (classes == label).mean()
            )
    background = audit.facts["background"]
    total = len(dicts) * len(anchors_by_hand(64, 64)[0])
    assert background["anchors"]["mean"] == total / len(dicts)
    negatives = total - positives.sum() - ignored
    elements = 5 * negatives + 4 * positives.sum()
    assert background["elements"]["ratio"] == pytest.approx(elements / positives.sum())
    assert background["bg_fg"] == pytest.approx(
        (total - positives.sum() - ignored) / positives.sum()
    )


def test_an_audit_is_json_without_nan(audit):
    content = json.loads(audit.as_json())
    assert content["format"] == 1
    assert content["classes"] == audit.facts["classes"]
    assert [x["text"] for x in content["sentences"]] == [x.text for x in audit.sentences]


def test_an_arm_that_labels_alike_differs_only_in_its_loss():
    audit = audit_config(built_in(), arms=["ce", "low_quality_off", "class_balanced"])
    rows = {row["name"]: row for row in audit.facts["loss"]["rows"]}
    assert list(rows) == ["config", "CE", "FL", "ce", "low_quality_off", "class_balanced"]
    assert rows["ce"]["first_step"] == rows["CE"]["first_step"]
    assert rows["config"]["first_step"] == rows["FL"]["first_step"]
    assert rows["low_quality_off"]["first_step"] != rows["FL"]["first_step"]


@pytest.fixture
def dataset():
    """Register dataset dicts, and forget them."""

    def register(images, num_classes):
        dicts = [
            {
                "file_name": f"{number}.png",
                "image_id": number,
                "height": 64,
                "width": 96,
                "annotations": [
                    {
                        "bbox": box,
                        "bbox_mode": BoxMode.XYXY_ABS,
                        "category_id": label,
                        "iscrowd": crowd,
                    }
                    for *box, label, crowd in image
                ],
            }
            for number, image in enumerate(images)
        ]
        DatasetCatalog.register("audited", lambda: dicts)
        MetadataCatalog.get("audited").thing_classes = [f"c{i}" for i in range(num_classes)]
        cfg = config()
        cfg.DATASETS.TRAIN = ("audited",)
        cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
        return cfg

    yield register
    DatasetCatalog.remove("audited")
    MetadataCatalog.remove("audited")


@pytest.mark.parametrize(
    "images", [[[], []], [[(5, 5, 30, 30, 0, 1)]]], ids=["no objects", "only crowds"]
)
def test_a_dataset_without_objects_is_red(images, dataset):
    audit = audit_config(dataset(images, 2))
    assert [sentence.topic for sentence in audit.red] == ["images"]
    json.loads(audit.as_json())


def test_one_image_of_1203_classes_has_figures_of_each_class(dataset):
    box = (20, 20, 36, 36)
    audit = audit_config(dataset([[(*box, 7, 0), (*box, 1202, 0)]], 1203))
    rows = audit.facts["anchors"]["per_class"]
    assert [i for i, row in enumerate(rows) if row["objects"]] == [7, 1202]
    assert rows[1202]["stolen"] == 1  # the first object takes all anchors in a tie
    assert not any("nan" in sentence.text for sentence in audit.sentences)


def test_objects_without_anchors_are_red_with_a_remedy_that_is_tried(dataset):
    far = [[(10 + x, 20, 16 + x, 26, 1, 0) for x in (0, 30, 60)] for _ in range(2)]
    near = [(20, 20, 40, 40, 0, 0)]
    cfg = dataset([[*far[0], *near], far[1]], 2)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TRAIN = 64, (64,)
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = "ClassBalancedFocalLoss"  # requires the counts of the classes
    (red,) = audit_config(cfg).red
    start = "c1: 100% of objects have no anchor of IoU .5 at 64 px. No loss will find them; "
    assert red.text == f"{start}train at 128 px."


def test_a_class_that_the_model_lacks_is_refused(dataset):
    cfg = dataset([[(5, 5, 30, 30, 2, 0)]], 3)
    cfg.MODEL.RETINANET.NUM_CLASSES = 2
    with pytest.raises(ValueError, match="has 2 classes, but audited has an object of class index"):
        audit_config(cfg)


def test_a_detector_without_anchors_is_refused(dataset):
    cfg = dataset([[(5, 5, 30, 30, 0, 0)]], 1)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    with pytest.raises(ValueError, match="requires a detector with anchors"):
        audit_config(cfg)
