"""Tests of the labels of all anchors: bit for bit those of the detector itself."""

import numpy as np
import pytest
from detectron2.structures import Boxes

from focal_plugin import get_cfg
from focal_plugin.audit.detector import read_detector
from focal_plugin.audit.labeling import best_ious, label_anchors
from focal_plugin.config_file import find_config_file
from focal_plugin.modeling.matcher import match_images

from .reference import dense_labels, placed, random_table


def config(name="retinanet_small.yaml", **keys):
    """Return a config with three classes and the changed keys, `A__B=value` for `A.B`."""
    cfg = get_cfg()
    cfg.merge_from_file(str(find_config_file(f"Shapes-Detection/{name}")))
    cfg.MODEL.RETINANET.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    pairs = [x for key, value in keys.items() for x in (key.replace("__", "."), value)]
    cfg.merge_from_list(pairs)
    return cfg


def labels_of_detector(detector):
    """Return the labels of one image by the matcher and the crowd rule, as the model applies."""

    def label(anchors, instances):
        boxes = Boxes.cat(anchors)
        (match,) = match_images(detector.matcher, boxes, [instances])
        (by_iou,) = match_images(
            type(detector.matcher)(
                detector.matcher.thresholds[1:-1], detector.matcher.labels, low_quality="off"
            ),
            boxes,
            [instances],
        )
        labels = match.labels.clone()
        if not len(match.objects):
            labels.zero_()
        if detector.crowd_rule is not None:
            detector.crowd_rule.apply_(labels, boxes, match.crowds, background=0)
        return match.idxs, labels, by_iou.labels

    return label


def assert_same(data, label):
    found, dense = label_anchors(data), dense_labels(data, label)
    for name in ("best_iou", "positives", "forced", "anchors", "ignored"):
        assert np.array_equal(getattr(found, name), getattr(dense, name)), name
    assert np.array_equal(best_ious(data), dense.best_iou)
    return found


@pytest.mark.parametrize("low_quality", ["on", "clobber", "off"])
@pytest.mark.parametrize("largest", [8, 80], ids=["smaller than most anchors", "of all sizes"])
def test_labels_are_those_of_the_matcher(low_quality, largest):
    cfg = config(MODEL__FOCAL__ANCHOR_LABELS__LOW_QUALITY=low_quality)
    detector = read_detector(cfg)
    data = placed(detector, random_table(12, seed=3, largest=largest))
    found = assert_same(data, labels_of_detector(detector))
    assert found.positives.sum() > 20
    assert (found.forced.sum() > 0) == (low_quality == "on" or largest == 80 != low_quality)


def test_labels_are_those_of_the_matcher_for_objects_larger_than_every_anchor():
    detector = read_detector(config())
    table = random_table(2, seed=1, largest=700, size=(300, 420), num_objects=(2, 5))
    assert assert_same(placed(detector, table), labels_of_detector(detector)).forced.sum() > 50
