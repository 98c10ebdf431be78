"""Tests of the labels of all anchors: bit for bit those of the detector itself."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_backbone, build_model, build_proposal_generator
from detectron2.structures import Boxes

from focal_plugin.audit.detector import read_detector
from focal_plugin.audit.labeling import best_ious, label_anchors
from focal_plugin.audit.network_frame import FrameSize

from .reference import config, dense_labels, placed, random_table, table_of_boxes


def retinanets_labels(cfg):
    """Return the labels and matched boxes of an image, from `FocalRetinaNet.label_anchors`."""
    cfg.MODEL.DEVICE = "meta"
    model = build_model(cfg)

    def label(anchors, instances):
        (labels,), (boxes,) = model.label_anchors(anchors, [instances])
        return torch.where(labels < 0, -1, (labels < model.num_classes).long()), boxes

    return label


def rpns_labels(cfg):
    """Return the labels and matched boxes of an image, from `FocalRPN`, before its sampling."""
    cfg.MODEL.FOCAL.RPN.MINING.NAME = "all"
    with torch.device("meta"):
        shapes = build_backbone(cfg).output_shape()
    rpn = build_proposal_generator(cfg, shapes)

    def label(anchors, instances):
        (labels,), (boxes,) = rpn.label_and_sample_anchors(anchors, [instances])
        return labels, boxes

    return label


def assert_same(data, label):
    found, dense = label_anchors(data), dense_labels(data, label)
    for name in ("best_iou", "positives", "forced", "anchors", "ignored"):
        if name != "best_iou" or not data.detector.matches_inside_only:
            assert np.array_equal(getattr(found, name), getattr(dense, name)), name
    assert np.array_equal(best_ious(data), found.best_iou)
    return found


@pytest.mark.parametrize("low_quality", ["on", "clobber", "off"])
def test_labels_are_those_of_retinanet(low_quality):
    cfg = config(MODEL__FOCAL__ANCHOR_LABELS__LOW_QUALITY=low_quality)
    table = random_table(12, seed=3)
    table = table._replace(boxes=np.round(table.boxes / 8) * 8)  # equal IoUs, and empty boxes
    data = placed(read_detector(cfg), table)
    found = assert_same(data, retinanets_labels(cfg))
    assert found.positives.sum() > 100
    assert (found.forced.sum() > 0) == (low_quality != "off")


def test_labels_are_those_of_retinanet_for_objects_smaller_than_every_anchor():
    cfg = config()
    data = placed(read_detector(cfg), random_table(6, seed=1, largest=7, num_objects=(20, 60)))
    found = assert_same(data, retinanets_labels(cfg))
    assert found.best_iou.max() < 0.4
    assert found.stolen.any()


def test_labels_are_those_of_retinanet_for_objects_larger_than_every_anchor():
    cfg = config()
    table = table_of_boxes([[(2, 3, 290, 280, 0), (0, 0, 300, 210, 1)]], size=(300, 420))
    found = assert_same(placed(read_detector(cfg), table), retinanets_labels(cfg))
    assert found.forced.sum() > 100  # every anchor of the largest size inside an object


def test_labels_are_those_of_retinanet_at_stock_anchors_in_a_resized_image():
    sizes = [[32, 40.3, 50.8], [64, 80.6, 101.6], [128, 161.3, 203.2]]
    cfg = config(MODEL__ANCHOR_GENERATOR__SIZES=sizes)
    data = placed(read_detector(cfg), random_table(2, seed=5), FrameSize(300, 420))
    assert data.frame.image_sizes.tolist() == [[280, 420]] * 2
    assert assert_same(data, retinanets_labels(cfg)).positives.sum() > 50


def test_labels_are_those_of_retinanet_with_ignored_crowds():
    cfg = config(MODEL__FOCAL__ANCHOR_LABELS__CROWD="ignore")
    table = random_table(8, seed=2, crowds=0.3)
    found = assert_same(placed(read_detector(cfg), table), retinanets_labels(cfg))
    only_crowds = table._replace(classes=np.full_like(table.classes, -1))
    alone = assert_same(placed(read_detector(cfg), only_crowds), retinanets_labels(cfg))
    assert alone.ignored.sum() > found.ignored.sum() > 500
    assert alone.positives.sum() == 0


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"MODEL__FOCAL__RPN__STYLE": "tensorpack"},
        {"MODEL__FOCAL__RPN__MATCHED": "inside", "MODEL__FOCAL__RPN__CROWD": "ignore"},
        {"MODEL__RPN__BOUNDARY_THRESH": 3},
        {"MODEL__FOCAL__RPN__STYLE": "matterport"},
        {"MODEL__FOCAL__RPN__CROWD": "tensorpack", "MODEL__FOCAL__RPN__CROWD_THRESH": 0.5},
    ],
    ids=["stock", "tensorpack", "inside", "boundary", "matterport", "crowds exclude positives"],
)
def test_labels_are_those_of_the_rpn(keys):
    cfg = config("faster_rcnn_small.yaml", **keys)
    data = placed(read_detector(cfg), random_table(6, seed=4, crowds=0.2, largest=50))
    assert assert_same(data, rpns_labels(cfg)).positives.sum() > 20


def test_best_ious_are_of_anchors_inside_if_only_these_are_matched():
    cfg = config("faster_rcnn_small.yaml", MODEL__FOCAL__RPN__MATCHED="inside")
    table = table_of_boxes([[(0, 0, 10, 10, 0)]])
    best = best_ious(placed(read_detector(cfg), table))
    inside = Boxes(torch.tensor([[0.0, 0, 16, 16]]))  # no anchor of 16 px is nearer
    assert 0 < best[0] <= 100 / inside.area().item()


def test_the_first_of_two_equal_objects_steals_the_anchors_of_the_second():
    table = table_of_boxes([[(8, 8, 40, 40, 1), (8, 8, 40, 40, 0), (50, 5, 50, 9, 2)]])
    found = label_anchors(placed(read_detector(config()), table))
    assert (found.positives.sum(axis=1) > 0).tolist() == [True, False, False]
    assert found.stolen.tolist() == [False, True, False]  # the third one overlaps no anchor


def test_a_dataset_without_objects_has_only_background():
    found = label_anchors(placed(read_detector(config()), table_of_boxes([[], []])))
    assert found.anchors.sum() > 0
    assert found.ignored.sum() == found.positives.sum() == 0


def test_the_assigner_of_training_is_known():
    for changes, expected in [
        ({}, "max_iou"),
        ({"MODEL__FOCAL__ASSIGNER__NAME": "tal"}, "tal"),
        ({"MODEL__FOCAL__BAG_LOSS__NAME": "FreeAnchorLoss"}, "FreeAnchorLoss"),
        (
            {"MODEL__META_ARCHITECTURE": "RetinaNet", "MODEL__FOCAL__ASSIGNER__NAME": "tal"},
            "max_iou",
        ),
    ]:
        assert read_detector(config(**changes)).assigner == expected
