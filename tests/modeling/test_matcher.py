"""AnchorMatcher against the stock matcher, and its modes."""

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou

from focal_plugin.modeling import places
from focal_plugin.modeling.matcher import (
    CROWD_RULES,
    LOW_QUALITY,
    AnchorMatcher,
    build_anchor_matcher,
    split_crowds,
)

from .toy import toy_cfg

THRESHOLDS, LABELS = [0.4, 0.5], [0, -1, 1]


def random_ious(seed, num_objects=6, num_anchors=60):
    """Mostly low, in steps of .1, so that ties and values on a threshold are common."""
    generator = torch.Generator().manual_seed(seed)
    ious = torch.rand(num_objects, num_anchors, generator=generator).pow(3)
    ious = (ious * 10).round() / 10
    ious[0] = (ious[0] * 3).round() / 10  # an object whose best anchors are below .4
    assert (ious.amax(dim=1) > 0).all()
    return ious


@pytest.mark.parametrize("seed", range(10))
def test_on_is_stock_bit_for_bit(seed):
    ious = random_ious(seed)
    stock = Matcher(THRESHOLDS, LABELS, allow_low_quality_matches=True)(ious)
    ours = AnchorMatcher(THRESHOLDS, LABELS, low_quality="on")(ious)
    for mine, theirs in zip(ours, stock, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("seed", range(10))
def test_off_is_stock_without_low_quality_matches(seed):
    ious = random_ious(seed)
    stock = Matcher(THRESHOLDS, LABELS)(ious)
    ours = AnchorMatcher(THRESHOLDS, LABELS, low_quality="off")(ious)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours, stock, strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_clobber_is_the_order_of_the_original_detectron(seed):
    """First the best anchors and those above the threshold, then the background over them."""
    ious = random_ious(seed)
    expected = torch.full((ious.shape[1],), -1)
    for row in ious:
        expected[row == row.max()] = 1
    expected[ious.amax(dim=0) >= 0.5] = 1
    expected[ious.amax(dim=0) < 0.4] = 0
    _, labels = AnchorMatcher(THRESHOLDS, LABELS, low_quality="clobber")(ious)
    assert torch.equal(labels.long(), expected)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("on", [1, 1, 0, 1]), ("clobber", [0, 1, 0, 1]), ("off", [0, -1, 0, 1])],
)
def test_modes_differ_in_the_best_anchors_below_the_threshold(mode, expected):
    ious = torch.tensor([[0.30, 0.10, 0.20, 0.00], [0.00, 0.45, 0.10, 0.00], [0.1, 0.1, 0.1, 0.9]])
    _, labels = AnchorMatcher(THRESHOLDS, LABELS, low_quality=mode)(ious)
    assert labels.tolist() == expected


def test_stock_makes_every_free_anchor_positive_for_an_object_that_overlaps_none():
    """If this fails the stock matcher was mended: say so in AnchorMatcher."""
    _, labels = Matcher(THRESHOLDS, LABELS, allow_low_quality_matches=True)(_ious_with_a_stray())
    assert labels.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("mode", LOW_QUALITY)
def test_an_object_that_overlaps_no_anchor_makes_none_positive(mode):
    _, labels = AnchorMatcher(THRESHOLDS, LABELS, low_quality=mode)(_ious_with_a_stray())
    assert labels.tolist() == [1, 0, 0, 0]


def _ious_with_a_stray():
    anchors = Boxes(torch.tensor([[i * 20.0, 0.0, i * 20.0 + 10, 10.0] for i in range(4)]))
    objects = Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 90.0, 10.0, 99.0]]))
    return pairwise_iou(objects, anchors)


@pytest.mark.parametrize("mode", LOW_QUALITY)
def test_an_image_without_objects_is_background(mode):
    matches, labels = AnchorMatcher(THRESHOLDS, LABELS, low_quality=mode)(torch.zeros(0, 5))
    assert matches.tolist() == labels.tolist() == [0] * 5


def test_the_builder_reads_thresholds_labels_and_mode():
    opts = ["MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY", "clobber"]
    opts += ["MODEL.RETINANET.IOU_THRESHOLDS", [0.3, 0.6], "MODEL.RETINANET.IOU_LABELS", [0, -1, 1]]
    matcher = build_anchor_matcher(toy_cfg(*opts))
    assert matcher.low_quality == "clobber"
    assert matcher.thresholds[1:-1] == [0.3, 0.6]
    assert matcher.labels == [0, -1, 1]
    assert build_anchor_matcher(toy_cfg()).low_quality == "on"


def test_an_illegal_mode_is_an_error_that_names_its_key():
    key = "MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY"
    with pytest.raises(ValueError, match=rf"{key} must be one of .*, got 'best'"):
        build_anchor_matcher(toy_cfg(key, "best"))


def test_split_crowds_parts_objects_from_regions_and_keeps_their_order():
    boxes = torch.arange(16.0).view(4, 4)
    classes = torch.tensor([3, -1, 0, -1])
    instances = Instances((20, 20), gt_boxes=Boxes(boxes), gt_classes=classes)
    objects, crowds = split_crowds(instances)
    assert objects.gt_classes.tolist() == [3, 0]
    assert torch.equal(objects.gt_boxes.tensor, boxes[[0, 2]])
    assert torch.equal(crowds.tensor, boxes[[1, 3]])


@pytest.mark.parametrize("classes", [[], [2], [-1]])
def test_split_crowds_of_a_single_kind_leaves_the_other_empty(classes):
    boxes = Boxes(torch.ones(len(classes), 4))
    gt_classes = torch.tensor(classes, dtype=torch.int64)
    objects, crowds = split_crowds(Instances((9, 9), gt_boxes=boxes, gt_classes=gt_classes))
    assert objects.gt_classes.tolist() == [x for x in classes if x >= 0]
    assert crowds.tensor.shape == (sum(x < 0 for x in classes), 4)


def test_split_crowds_of_instances_without_classes_finds_none():
    """Data sets of proposals give boxes alone, and stock's RPN asks for no more."""
    instances = Instances((9, 9), gt_boxes=Boxes(torch.ones(3, 4)))
    objects, crowds = split_crowds(instances)
    assert len(objects) == 3
    assert crowds.tensor.shape == (0, 4)


# Crowd rules


# Of an area of 100 in a crowd of 2000: all, 70, 50 and 10 of it, and none
LEFT_SIDES = torch.tensor([0.0, 33.0, 35.0, 39.0, 50.0])
SHARES = Boxes(
    torch.stack([LEFT_SIDES, torch.zeros(5), LEFT_SIDES + 10, torch.full((5,), 10.0)], dim=1)
)
CROWD = Boxes(torch.tensor([[0.0, 0.0, 40.0, 50.0]]))


@pytest.mark.parametrize("label", [0, 1, 7])
@pytest.mark.parametrize(
    ("rule", "taken_if_background", "taken_if_not"),
    [
        ("ignore", [True, True, False, False, False], [False] * 5),
        ("tensorpack", [False] * 5, [False] * 5),
        ("matterport", [True, True, True, True, False], [False] * 5),
    ],
)
@pytest.mark.parametrize("background", [0, 7])
def test_a_crowd_rule_takes_the_background_by_its_overlap(
    rule, taken_if_background, taken_if_not, label, background
):
    labels = torch.full((5,), label, dtype=torch.int8)
    CROWD_RULES[rule].apply_(labels, SHARES, CROWD, background=background)
    taken = taken_if_background if label == background else taken_if_not
    assert labels.tolist() == [-1 if x else label for x in taken]


def test_a_rule_that_takes_positives_takes_every_label():
    labels = torch.tensor([1, 0, 1, 0, 1])
    rule = CROWD_RULES["tensorpack"]._replace(threshold=0.6)
    rule.apply_(labels, SHARES, CROWD, background=0)
    assert labels.tolist() == [-1, -1, 1, 0, 1]


@pytest.mark.parametrize("rule", ["ignore", "matterport"])
def test_the_largest_overlap_with_any_crowd_decides(rule):
    """Two halves of an anchor are no whole; either order of the crowds is the same."""
    anchors = Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
    halves = Boxes(torch.tensor([[0.0, 0.0, 5.0, 10.0], [5.0, 0.0, 10.0, 10.0]]))
    for crowds in (halves, halves[torch.tensor([1, 0])]):
        labels = torch.tensor([0])
        CROWD_RULES[rule].apply_(labels, anchors, crowds, background=0)
        assert labels.tolist() == [-1 if rule == "matterport" else 0]


@pytest.mark.parametrize("rule", ["ignore", "tensorpack", "matterport"])
def test_without_a_crowd_or_an_anchor_nothing_is_taken(rule):
    nothing = Boxes(torch.zeros(0, 4))
    labels = torch.tensor([0, 1, -1, 0, 0])
    CROWD_RULES[rule].apply_(labels, SHARES, nothing, background=0)
    assert labels.tolist() == [0, 1, -1, 0, 0]
    CROWD_RULES[rule].apply_(torch.zeros(0), nothing, CROWD, background=0)


def test_crowds_as_background_have_no_rule():
    assert CROWD_RULES["background"] is None
    assert list(CROWD_RULES) == ["background", "ignore", "tensorpack", "matterport"]


# At another place


def test_the_matcher_of_an_rpn_reads_its_own_keys():
    opts = ["MODEL.FOCAL.RPN.LOW_QUALITY", "clobber"]
    opts += ["MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY", "off"]
    opts += ["MODEL.RPN.IOU_THRESHOLDS", [0.2, 0.6], "MODEL.RETINANET.IOU_THRESHOLDS", [0.1, 0.9]]
    matcher = build_anchor_matcher(toy_cfg(*opts), places.RPN)
    assert matcher.low_quality == "clobber"
    assert matcher.thresholds[1:-1] == [0.2, 0.6]


def test_an_illegal_mode_of_an_rpn_is_an_error_that_names_its_key():
    key = "MODEL.FOCAL.RPN.LOW_QUALITY"
    with pytest.raises(ValueError, match=rf"^{key} must be one of .*, got 'best'"):
        build_anchor_matcher(toy_cfg(key, "best"), places.RPN)
