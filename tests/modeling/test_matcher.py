"""AnchorMatcher: comparison with the stock matcher, and its modes."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import RetinaNet
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch.utils._python_dispatch import TorchDispatchMode

from focal_plugin.modeling import config_scopes
from focal_plugin.modeling import matcher as matcher_module
from focal_plugin.modeling.matcher import (
    CROWD_RULES,
    LOW_QUALITY,
    AnchorMatcher,
    build_anchor_matcher,
    match_images,
    split_crowds,
    void_crowds,
)
from focal_plugin.ops import implementations

from ..each import each
from .toy import NUM_CLASSES, tiny_model, toy_cfg
from .toy_rcnn import tiny_rcnn_cfg

THRESHOLDS, LABELS = [0.4, 0.5], [0, -1, 1]


def random_ious(seed, num_objects=6, num_anchors=60):
    """Return mostly low IoUs in steps of .1, so that ties and values on a threshold are common."""
    generator = torch.Generator().manual_seed(seed)
    ious = torch.rand(num_objects, num_anchors, generator=generator).pow(3)
    ious = (ious * 10).round() / 10
    ious[0] = (ious[0] * 3).round() / 10  # an object whose best anchors are below .4
    assert (ious.amax(dim=1) > 0).all()
    return ious


@each("seed", range(10))
def test_on_is_stock_bit_for_bit(seed):
    ious = random_ious(seed)
    stock = Matcher(THRESHOLDS, LABELS, allow_low_quality_matches=True)(ious)
    ours = AnchorMatcher(THRESHOLDS, LABELS, low_quality="on")(ious)
    for mine, theirs in zip(ours, stock, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)


@each("seed", range(10))
def test_off_is_stock_without_low_quality_matches(seed):
    ious = random_ious(seed)
    stock = Matcher(THRESHOLDS, LABELS)(ious)
    ours = AnchorMatcher(THRESHOLDS, LABELS, low_quality="off")(ious)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours, stock, strict=True))


@each("seed", range(10))
def test_clobber_is_the_order_of_the_original_detectron(seed):
    """Label the best anchors and those above the threshold, and then overwrite the background."""
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
    """A failure means that Detectron2 has fixed its matcher: update AnchorMatcher's docstring."""
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


def test_split_crowds_separates_objects_from_regions_and_keeps_their_order():
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
    """Datasets of proposals have boxes only, and stock's RPN requires no more."""
    instances = Instances((9, 9), gt_boxes=Boxes(torch.ones(3, 4)))
    objects, crowds = split_crowds(instances)
    assert len(objects) == 3
    assert crowds.tensor.shape == (0, 4)


# Crowd rules


# Shares of an area of 100 in a crowd of 2000: all, 70, 50 and 10 of it, and none
LEFT_SIDES = torch.tensor([0.0, 33.0, 35.0, 39.0, 50.0])
SHARES = Boxes(
    torch.stack([LEFT_SIDES, torch.zeros(5), LEFT_SIDES + 10, torch.full((5,), 10.0)], dim=1)
)
CROWD = Boxes(torch.tensor([[0.0, 0.0, 40.0, 50.0]]))


@each("label", [0, 1, 7])
@each(
    ("rule", "taken_if_background", "taken_if_not"),
    [
        ("ignore", [True, True, False, False, False], [False] * 5),
        ("tensorpack", [False] * 5, [False] * 5),
        ("matterport", [True, True, True, True, False], [False] * 5),
    ],
)
@each("background", [0, 7])
def test_a_crowd_rule_excludes_the_background_by_its_overlap(
    rule, taken_if_background, taken_if_not, label, background
):
    labels = torch.full((5,), label, dtype=torch.int8)
    CROWD_RULES[rule].apply_(labels, SHARES, CROWD, background=background)
    taken = taken_if_background if label == background else taken_if_not
    assert labels.tolist() == [-1 if x else label for x in taken]


def test_a_rule_for_positives_excludes_every_label():
    labels = torch.tensor([1, 0, 1, 0, 1])
    rule = CROWD_RULES["tensorpack"]._replace(threshold=0.6)
    rule.apply_(labels, SHARES, CROWD, background=0)
    assert labels.tolist() == [-1, -1, 1, 0, 1]


@pytest.mark.parametrize("rule", ["ignore", "matterport"])
def test_the_largest_overlap_with_any_crowd_decides(rule):
    """Two halves of an anchor do not add up, in either order of the crowds."""
    anchors = Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
    halves = Boxes(torch.tensor([[0.0, 0.0, 5.0, 10.0], [5.0, 0.0, 10.0, 10.0]]))
    for crowds in (halves, halves[torch.tensor([1, 0])]):
        labels = torch.tensor([0])
        CROWD_RULES[rule].apply_(labels, anchors, crowds, background=0)
        assert labels.tolist() == [-1 if rule == "matterport" else 0]


@pytest.mark.parametrize("rule", ["ignore", "tensorpack", "matterport"])
def test_without_a_crowd_or_an_anchor_nothing_is_excluded(rule):
    nothing = Boxes(torch.zeros(0, 4))
    labels = torch.tensor([0, 1, -1, 0, 0])
    CROWD_RULES[rule].apply_(labels, SHARES, nothing, background=0)
    assert labels.tolist() == [0, 1, -1, 0, 0]
    CROWD_RULES[rule].apply_(torch.zeros(0), nothing, CROWD, background=0)


def test_crowds_as_background_have_no_rule():
    assert CROWD_RULES["background"] is None
    assert list(CROWD_RULES) == ["background", "ignore", "tensorpack", "matterport"]


# At another location of the keys


def test_the_matcher_of_an_rpn_reads_its_own_keys():
    opts = ["MODEL.FOCAL.RPN.LOW_QUALITY", "clobber"]
    opts += ["MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY", "off"]
    opts += ["MODEL.RPN.IOU_THRESHOLDS", [0.2, 0.6], "MODEL.RETINANET.IOU_THRESHOLDS", [0.1, 0.9]]
    matcher = build_anchor_matcher(toy_cfg(*opts), config_scopes.RPN)
    assert matcher.low_quality == "clobber"
    assert matcher.thresholds[1:-1] == [0.2, 0.6]


def test_an_illegal_mode_of_an_rpn_is_an_error_that_names_its_key():
    key = "MODEL.FOCAL.RPN.LOW_QUALITY"
    with pytest.raises(ValueError, match=rf"^{key} must be one of .*, got 'best'"):
        build_anchor_matcher(toy_cfg(key, "best"), config_scopes.RPN)


# In one pass, in the detectors


def scene():
    """Return three levels of anchors, and images with objects, crowds, both and neither."""
    generator = torch.Generator().manual_seed(0)
    anchors = [Boxes(integer_boxes(generator, count, 8)) for count in (300, 90, 1)]
    gt_instances = []
    for num_objects, num_crowds in [(7, 2), (0, 0), (0, 3), (4, 0), (1, 1)]:
        count = num_objects + num_crowds
        classes = torch.randint(0, NUM_CLASSES, (count,), generator=generator)
        classes[torch.randperm(count, generator=generator)[:num_crowds]] = -1
        boxes = Boxes(integer_boxes(generator, count, 14))
        gt_instances.append(Instances((24, 20), gt_boxes=boxes, gt_classes=classes))
    return anchors, gt_instances


def integer_boxes(generator, count, longest):
    corner = torch.randint(-2, 16, (count, 2), generator=generator)
    size = torch.randint(2, longest, (count, 2), generator=generator)
    return torch.cat([corner, corner + size], dim=1).float()


def assert_equal_lists(mine, theirs):
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def parting(request, monkeypatch):
    """Empty boxes replace crowds on a GPU, because a removal would synchronize."""
    if request.param == "as on a GPU":
        monkeypatch.setattr(matcher_module, "split_crowds", void_crowds)


BANDS = [(THRESHOLDS, LABELS), ([0.3], [-1, 1]), ([0.3], [1, 0])]


@each("bands", BANDS)
@each("mode", LOW_QUALITY)
def test_boxes_are_matched_as_their_matrix_is(mode, bands):
    anchors, gt_instances = scene()
    anchors, gt_boxes = Boxes.cat(anchors), [x.gt_boxes for x in gt_instances]
    matcher = AnchorMatcher(*bands, low_quality=mode)
    expected = [matcher(pairwise_iou(boxes, anchors)) for boxes in gt_boxes]
    for mine, theirs in zip(
        matcher.match_boxes(gt_boxes, anchors), zip(*expected, strict=True), strict=True
    ):
        assert_equal_lists(mine, theirs)


@pytest.mark.parametrize("bands", BANDS)
@pytest.mark.parametrize("mode", LOW_QUALITY)
def test_retinanet_labels_anchors_as_stock_with_this_matcher(mode, bands, parting):
    """Return the values of objects; the others, such as boxes of the background, are equal too."""
    anchors, gt_instances = scene()
    model = tiny_model()
    model.anchor_matcher = AnchorMatcher(*bands, low_quality=mode)
    objects = [x[x.gt_classes >= 0] for x in gt_instances]
    expected = RetinaNet.label_anchors(model, anchors, objects)
    for mine, theirs in zip(model.label_anchors(anchors, gt_instances), expected, strict=True):
        assert_equal_lists(mine, theirs)


def test_retinanet_ignores_the_background_in_crowds(parting):
    anchors, gt_instances = scene()
    all_anchors = Boxes.cat(anchors)
    labels = {}
    for ignores in (False, True):
        model = tiny_model()
        model.ignores_crowds = ignores
        labels[ignores], _ = model.label_anchors(anchors, gt_instances)
    for n, instances in enumerate(gt_instances):
        crowds = instances[instances.gt_classes < 0].gt_boxes
        expected = labels[False][n].clone()
        CROWD_RULES["ignore"].apply_(expected, all_anchors, crowds, background=NUM_CLASSES)
        assert torch.equal(labels[True][n], expected)
        assert torch.equal(labels[False][n], expected) == (len(crowds) == 0)


def make_rpn(*opts):
    cfg = tiny_rcnn_cfg("MODEL.PROPOSAL_GENERATOR.NAME", "FocalRPN", *opts)
    shapes = {f: ShapeSpec(channels=8, stride=8) for f in cfg.MODEL.RPN.IN_FEATURES}
    return build_proposal_generator(cfg, shapes)


@pytest.mark.parametrize("boundary", [-1, 3])
def test_rpn_labels_and_samples_anchors_as_stock_with_this_matcher(boundary, parting):
    anchors, gt_instances = scene()
    rpn = make_rpn("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 60, "MODEL.RPN.BOUNDARY_THRESH", boundary)
    torch.manual_seed(0)
    mine = rpn.label_and_sample_anchors(anchors, gt_instances)
    torch.manual_seed(0)
    objects = [x[x.gt_classes >= 0] for x in gt_instances]
    theirs = RPN.label_and_sample_anchors(rpn, anchors, objects)
    assert_equal_lists(mine[0], theirs[0])
    assert_equal_lists(mine[1], theirs[1])


@pytest.mark.parametrize("mode", LOW_QUALITY)
def test_rpn_matches_anchors_inside_as_if_there_were_no_others(mode, parting):
    anchors, gt_instances = scene()
    keys = ["MATCHED", "inside", "MINING.NAME", "all", "LOW_QUALITY", mode]
    keys[::2] = [f"MODEL.FOCAL.RPN.{key}" for key in keys[::2]]
    rpn = make_rpn(*keys)
    all_labels, all_boxes = rpn.label_and_sample_anchors(anchors, gt_instances)
    x1, y1, x2, y2 = Boxes.cat(anchors).tensor.unbind(dim=1)
    inside = (x1 >= 0) & (y1 >= 0) & (x2 <= 20) & (y2 <= 24)
    assert inside.any()
    assert not inside.all()
    for labels, boxes, instances in zip(all_labels, all_boxes, gt_instances, strict=True):
        objects = instances[instances.gt_classes >= 0].gt_boxes
        idxs, expected = rpn.anchor_matcher(pairwise_iou(objects, Boxes.cat(anchors)[inside]))
        assert torch.equal(labels[inside], expected)
        assert (labels[~inside] == -1).all()
        assert (boxes[~inside] == 0).all()
        assert torch.equal(
            boxes[inside], objects.tensor[idxs] if len(objects) else boxes[inside] * 0
        )


class NoWaiting(TorchDispatchMode):
    """Mode that fails if an operation reads a value, or a number of elements, from the device."""

    FORBIDDEN = {"nonzero", "_local_scalar_dense", "masked_select", "equal", "unique", "item"}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.FORBIDDEN, func
        if func.overloadpacket.__name__ in ("index", "index_put", "index_put_"):
            assert not any(x is not None and x.dtype == torch.bool for x in args[1]), func
        return func(*args, **(kwargs or {}))


def test_a_synchronization_with_a_gpu_is_detected():
    _, gt_instances = scene()
    with NoWaiting(), pytest.raises(AssertionError):
        split_crowds(gt_instances[0])


@pytest.mark.parametrize("ignores_crowds", [False, True])
@pytest.mark.parametrize("mode", LOW_QUALITY)
def test_labeling_never_synchronizes_with_a_gpu(mode, ignores_crowds, monkeypatch):
    monkeypatch.setattr(matcher_module, "split_crowds", void_crowds)
    monkeypatch.setattr(
        implementations, "has_extension", lambda: False
    )  # whose operations are not checked
    model = tiny_model("MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY", mode)
    model.ignores_crowds = ignores_crowds
    anchors, gt_instances = scene()
    with NoWaiting():
        model.label_anchors(anchors, gt_instances)


class PickyMatcher(AnchorMatcher):
    def set_low_quality_matches_(self, match_labels, match_quality_matrix):
        match_labels[:] = -1


@pytest.mark.parametrize("kind", [PickyMatcher, Matcher])
def test_another_matcher_receives_the_matrix(kind):
    anchors, gt_instances = scene()
    option = {"allow_low_quality_matches": True} if kind is Matcher else {}
    matcher = kind(THRESHOLDS, LABELS, **option)
    anchors = Boxes.cat(anchors)
    matches = match_images(matcher, anchors, gt_instances)
    for match, instances in zip(matches, gt_instances, strict=True):
        objects = instances[instances.gt_classes >= 0].gt_boxes
        idxs, labels = matcher(pairwise_iou(objects, anchors))
        assert_equal_lists((match.idxs, match.labels), (idxs, labels))


def test_boxes_of_another_type_use_the_matrix(monkeypatch):
    class OtherBoxes(Boxes):
        pass

    anchors, gt_instances = scene()
    kinds = []
    monkeypatch.setattr(
        matcher_module, "pairwise_iou", lambda a, b: kinds.append(type(b)) or pairwise_iou(a, b)
    )
    matcher = AnchorMatcher(THRESHOLDS, LABELS)
    list(match_images(matcher, OtherBoxes(anchors[0].tensor), gt_instances[:1]))
    assert kinds == [OtherBoxes]
    list(match_images(matcher, anchors[0], gt_instances[:1]))
    assert kinds == [OtherBoxes]


def test_void_crowds_keeps_every_row_and_empties_those_of_the_other_kind():
    boxes = torch.arange(1.0, 17.0).view(4, 4)
    classes = torch.tensor([-1, 3, -1, 0])
    instances = Instances((20, 20), gt_boxes=Boxes(boxes), gt_classes=classes)
    objects, crowds = void_crowds(instances)
    assert objects.gt_classes.tolist() == [3, 0, -1, -1]
    assert torch.equal(objects.gt_boxes.tensor[:2], boxes[[1, 3]])
    assert (objects.gt_boxes.tensor[2:] == 0).all()
    assert torch.equal(crowds.tensor[[0, 2]], boxes[[0, 2]])
    assert (crowds.tensor[[1, 3]] == 0).all()
    assert torch.equal(instances.gt_boxes.tensor, torch.arange(1.0, 17.0).view(4, 4))


def test_void_crowds_of_instances_without_classes_finds_none():
    instances = Instances((9, 9), gt_boxes=Boxes(torch.ones(3, 4)))
    objects, crowds = void_crowds(instances)
    assert objects is instances
    assert crowds.tensor.shape == (0, 4)


@pytest.mark.parametrize("rule", ["ignore", "matterport"])
def test_a_rule_excludes_the_same_anchors_for_many_crowds_as_for_each(rule):
    """There are more crowds than CROWDS_AT_ONCE."""
    generator = torch.Generator().manual_seed(0)
    anchors, crowds = (Boxes(integer_boxes(generator, count, 9)) for count in (200, 20))
    together, in_turn = torch.zeros(200), torch.zeros(200)
    CROWD_RULES[rule].apply_(together, anchors, crowds, background=0)
    for i in range(20):
        CROWD_RULES[rule].apply_(in_turn, anchors, crowds[i : i + 1], background=0)
    assert 0 < (together == -1).sum() < 200
    assert torch.equal(together, in_turn)
