"""FocalRPN: equality with stock at the default keys, and of each recipe with its own rules."""

import copy
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from focal_plugin.losses import BOX_LOSS_REGISTRY, CLS_LOSS_REGISTRY, huber_loss
from focal_plugin.mining import MINER_REGISTRY, ohem_keep_mask
from focal_plugin.modeling.matcher import CROWD_RULES
from focal_plugin.modeling.normalizer import RPN_NORMALIZERS
from focal_plugin.modeling.rpn import STYLES, FocalRPN, crowd_rule_of, with_style

from ..each import each
from ..registrations import DENSE_CLS_LOSSES
from . import rpn_reference as reference
from .rpn_reference import Case
from .toy import NARROW, assert_loads_every_key, gradients_of, toy_batch
from .toy_rcnn import STOCK, tiny_rcnn, tiny_rcnn_cfg, toy_rcnn

KEY = "MODEL.FOCAL.RPN."
C = 8
STRIDES = {"p3": 8, "p4": 16, "p5": 32, "p6": 64}
LEVELS = list(STRIDES)
SHAPES = {level: ShapeSpec(channels=C, stride=stride) for level, stride in STRIDES.items()}
IMAGE_SIZE = (64, 80)
STYLE_NAMES = sorted(STYLES)
CLS_LOSSES = [name for name in DENSE_CLS_LOSSES if name != "GumbelLoss"]  # refused, see below
BOX_LOSSES = sorted(name for name, _ in BOX_LOSS_REGISTRY)
MINERS = sorted(name for name, _ in MINER_REGISTRY)
NAN, INF = float("nan"), float("inf")
SAMPLES = [KEY + "CLS_LOSS.SAMPLES_PER_CLASS", [1000]]


def make_rpn(*opts, kind="FocalRPN"):
    torch.manual_seed(0)
    cfg = tiny_rcnn_cfg("MODEL.PROPOSAL_GENERATOR.NAME", kind)
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 256
    cfg.merge_from_list(list(opts))
    return build_proposal_generator(cfg, SHAPES)


def style(name):
    return [KEY + "STYLE", name]


def cls_loss(name):
    return [KEY + "CLS_LOSS.NAME", name, *SAMPLES]


# --- random anchors, labels and outputs of a head


def make_case(kind="mixed", *, seed=0, num_images=3):
    """
    Return a random batch with residuals on both sides of every break.

    The second image has no positives. With the ``kind`` "no_positives" no image has any. With
    "none_sampled" there is no negative either.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, std=1.0):
        return torch.randn(*shape, generator=generator) * std

    anchors = grid_anchors()
    sizes = [len(x) for x in anchors]
    flat = torch.cat(anchors)
    draw = torch.rand(num_images, len(flat), generator=generator)
    labels = torch.full(draw.shape, -1)
    labels[draw < 0.4] = 0
    labels[draw > 0.93] = 1
    labels[1:2][labels[1:2] == 1] = 0
    if kind == "no_positives":
        labels[labels == 1] = 0
    if kind == "none_sampled":
        labels[:] = -1
    size = (flat[:, 2:] - flat[:, :2]) * normal(num_images, len(flat), 2, std=0.3).exp()
    center = (flat[:, 2:] + flat[:, :2]) / 2 + size * normal(num_images, len(flat), 2, std=0.2)
    logits = normal(num_images, len(flat), std=2.0)
    deltas = normal(num_images, len(flat), 4, std=0.2)
    return Case(
        anchors=anchors,
        logits=list(logits.split(sizes, dim=1)),
        deltas=list(deltas.split(sizes, dim=1)),
        labels=labels.to(torch.int8),
        gt_boxes=torch.cat([center - size / 2, center + size / 2], dim=-1),
    )


def grid_anchors():
    height, width = IMAGE_SIZE
    features = [
        torch.zeros(1, C, math.ceil(height / stride), math.ceil(width / stride))
        for stride in STRIDES.values()
    ]
    return [boxes.tensor for boxes in make_rpn(kind="RPN").anchor_generator(features)]


class Result(NamedTuple):
    """Results of the losses of a case."""

    losses: dict  # name -> float32 scalar
    cls_gradient: torch.Tensor  # (N, R), gradient of loss_rpn_cls
    loc_gradient: torch.Tensor  # (N, R, 4), gradient of loss_rpn_loc
    logged: dict  # name -> value

    @property
    def cls(self):
        return self.losses["loss_rpn_cls"].item()

    @property
    def loc(self):
        return self.losses["loss_rpn_loc"].item()


def run(rpn, case):
    logits = [x.detach().clone().requires_grad_() for x in case.logits]
    deltas = [x.detach().clone().requires_grad_() for x in case.deltas]
    anchors = [Boxes(x) for x in case.anchors]
    with EventStorage() as storage:
        losses = rpn.losses(anchors, logits, list(case.labels), deltas, list(case.gt_boxes))
    assert list(losses) == ["loss_rpn_cls", "loss_rpn_loc"]
    cls_gradient = torch.autograd.grad(losses["loss_rpn_cls"], logits, retain_graph=True)
    loc_gradient = torch.autograd.grad(losses["loss_rpn_loc"], deltas)
    logged = {name: value for name, (value, _) in storage.latest().items()}
    return Result(losses, torch.cat(cls_gradient, 1), torch.cat(loc_gradient, 1), logged)


def run_reference(losses_of_case, case, **options):
    """Return both losses, and their gradients by logits and by deltas, in float64."""
    case = case._replace(
        logits=[x.double().requires_grad_() for x in case.logits],
        deltas=[x.double().requires_grad_() for x in case.deltas],
    )
    cls, loc = losses_of_case(case, **options)
    cls_gradient = torch.autograd.grad(cls, case.logits, retain_graph=True)
    loc_gradient = torch.autograd.grad(loc, case.deltas)
    return cls.item(), loc.item(), torch.cat(cls_gradient, 1), torch.cat(loc_gradient, 1)


def assert_near(gradient, expected, tolerance=1e-5):
    difference = (gradient.double() - expected.double()).norm()
    assert difference <= tolerance * expected.double().norm() + 1e-12


def assert_same(ours, theirs, tolerance=1e-6):
    assert ours.cls == pytest.approx(theirs.cls, rel=tolerance, abs=1e-12)
    assert ours.loc == pytest.approx(theirs.loc, rel=tolerance, abs=1e-12)
    assert_near(ours.cls_gradient, theirs.cls_gradient, 10 * tolerance)
    assert_near(ours.loc_gradient, theirs.loc_gradient, 10 * tolerance)


def multiply(result, *, cls=1.0, loc=1.0):
    cls_loss, loc_loss = result.losses.values()
    losses = {"loss_rpn_cls": cls * cls_loss, "loss_rpn_loc": loc * loc_loss}
    return Result(losses, cls * result.cls_gradient, loc * result.loc_gradient, result.logged)


# --- 1. stock at the default keys


PARITY = {
    "defaults": [],
    "giou": ["MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou"],
    "smooth_l1": ["MODEL.RPN.SMOOTH_L1_BETA", 0.5],
    "loss_weight": ["MODEL.RPN.LOSS_WEIGHT", 0.7],
    "box_weight": ["MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 2.5],
    "box_weights": ["MODEL.RPN.BBOX_REG_WEIGHTS", (10.0, 8.0, 5.0, 4.0)],
    "boundary": ["MODEL.RPN.BOUNDARY_THRESH", 0],
    "few": ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 12, "MODEL.RPN.POSITIVE_FRACTION", 0.25],
}


def make_inputs(with_objects=True):
    generator = torch.Generator().manual_seed(3)
    batch = toy_batch()
    instances = [x["instances"] if with_objects else x["instances"][:0] for x in batch]
    sizes = [x.image_size for x in instances]
    height, width = (max(size) for size in zip(*sizes, strict=True))
    features = {
        level: torch.randn(
            3, C, math.ceil(height / stride), math.ceil(width / stride), generator=generator
        )
        for level, stride in STRIDES.items()
    }
    return ImageList(torch.zeros(3, 3, height, width), sizes), features, instances


def step(rpn, inputs):
    """Return proposals, losses, gradients, logged scalars and the state of the random generator."""
    images, features, instances = inputs
    torch.manual_seed(5)
    rpn.zero_grad()
    with EventStorage() as storage:
        proposals, losses = rpn(images, features, instances)
    sum(losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in rpn.named_parameters()}
    logged = {name: value for name, (value, _) in storage.latest().items()}
    return proposals, losses, gradients, logged, torch.get_rng_state()


def assert_same_proposals(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) == len(other) > 0
        assert mine.get_fields().keys() == other.get_fields().keys()
        assert torch.equal(mine.proposal_boxes.tensor, other.proposal_boxes.tensor)
        assert torch.equal(mine.objectness_logits, other.objectness_logits)


@each("with_objects", [True, False])
@pytest.mark.parametrize("name", PARITY)
def test_a_step_at_the_default_keys_is_stocks(name, with_objects):
    ours, stock = make_rpn(*PARITY[name]), make_rpn(*PARITY[name], kind="RPN")
    assert type(ours) is FocalRPN
    assert type(stock) is RPN
    inputs = make_inputs(with_objects)
    mine, theirs = step(ours, inputs), step(stock, inputs)
    assert_same_proposals(mine[0], theirs[0])
    assert list(mine[1]) == list(theirs[1])
    for loss, value in theirs[1].items():
        torch.testing.assert_close(mine[1][loss], value, rtol=1e-6, atol=0)
        assert (value > 0) == (loss == "loss_rpn_cls" or with_objects)
    assert mine[2].keys() == theirs[2].keys()
    for parameter, gradient in theirs[2].items():
        assert_near(mine[2][parameter], gradient)
    assert theirs[3].items() <= mine[3].items()
    assert torch.equal(mine[4], theirs[4])

    with torch.no_grad():
        images, features, _ = inputs
        found = [model.eval()(images, features) for model in (ours, stock)]
    assert_same_proposals(found[0][0], found[1][0])
    assert found[0][1] == {}


def test_only_the_ratio_of_the_losses_and_missed_objects_are_logged_beyond_stock():
    inputs = make_inputs()
    ours, stock = step(make_rpn(), inputs)[3], step(make_rpn(kind="RPN"), inputs)[3]
    ratio, missed = "rpn/loc_to_cls_ratio", "rpn/num_objects_without_anchor"
    assert ours.keys() - stock.keys() == {ratio, missed}


@pytest.mark.parametrize("name", PARITY)
@each("kind", ["mixed", "no_positives", "none_sampled"])
def test_losses_of_random_labels_are_stocks(name, kind):
    case = make_case(kind)
    assert_same(run(make_rpn(*PARITY[name]), case), run(make_rpn(*PARITY[name], kind="RPN"), case))


def test_the_gradient_of_every_parameter_of_a_faster_rcnn_is_stocks():
    ours, stock = tiny_rcnn("MODEL.ROI_HEADS.NAME", "StandardROIHeads"), tiny_rcnn(*STOCK)
    assert type(ours.proposal_generator) is FocalRPN
    assert list(ours.state_dict()) == list(stock.state_dict())
    stock.load_state_dict(ours.state_dict())
    results, states = [], []
    for model in (ours, stock):
        torch.manual_seed(1)
        results.append(gradients_of(model, toy_batch()))
        states.append(torch.get_rng_state())
    (losses, gradients), (stock_losses, stock_gradients) = results
    assert list(losses) == list(stock_losses)
    for name, loss in stock_losses.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-6, atol=0)
    assert gradients.keys() == stock_gradients.keys()
    for name, gradient in stock_gradients.items():
        assert (gradients[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name
    assert torch.equal(*states)


@pytest.mark.parametrize("name", STYLE_NAMES)
def test_no_style_has_a_weight_or_a_buffer_that_stock_lacks(name):
    assert list(make_rpn(*style(name)).state_dict()) == list(make_rpn(kind="RPN").state_dict())


@pytest.mark.slow
def test_a_checkpoint_of_the_zoos_model_loads_without_a_missing_or_unexpected_key(tmp_path, caplog):
    """The state-dict keys match; the layers are as narrow as ours here."""
    shrink = [*NARROW, "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_HEADS.NUM_CLASSES", 80]
    ours = toy_rcnn("MODEL.ROI_HEADS.NAME", "StandardROIHeads", *shrink)
    zoo = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    zoo.merge_from_list(shrink)
    stock = build_model(zoo)
    assert_loads_every_key(ours, stock, tmp_path, caplog)


def test_objects_without_a_class_are_matched_as_in_stock():
    """Stock requires boxes only, and datasets of proposals have no more."""
    images, features, instances = make_inputs()
    for x in instances:
        x.remove("gt_classes")
    mine, theirs = (
        step(make_rpn(kind=kind), (images, features, instances)) for kind in ("FocalRPN", "RPN")
    )
    for loss, value in theirs[1].items():
        torch.testing.assert_close(mine[1][loss], value, rtol=1e-6, atol=0)


# --- 2. the losses of the two other code bases


@each("kind", ["mixed", "no_positives", "none_sampled"])
@each("num_images", [1, 3])
@each("batch_per_image", [256, 64])
def test_tensorpack_losses_are_its_sums_below_a_constant(kind, num_images, batch_per_image):
    case = make_case(kind, num_images=num_images)
    rpn = make_rpn(*style("tensorpack"), "MODEL.RPN.BATCH_SIZE_PER_IMAGE", batch_per_image)
    result = run(rpn, case)
    cls, loc, cls_gradient, loc_gradient = run_reference(
        reference.tensorpack_losses, case, batch_per_image=batch_per_image
    )
    assert result.cls == pytest.approx(cls, rel=2e-6)
    assert result.loc == pytest.approx(loc, rel=2e-6)
    assert_near(result.cls_gradient, cls_gradient)
    assert_near(result.loc_gradient, loc_gradient)


@each("kind", ["mixed", "no_positives", "none_sampled"])
@each("num_images", [1, 3])
def test_matterport_losses_are_its_two_means(kind, num_images):
    case = make_case(kind, num_images=num_images)
    result = run(make_rpn(*style("matterport")), case)
    cls, loc, cls_gradient, loc_gradient = run_reference(reference.matterport_losses, case)
    assert result.cls == pytest.approx(cls, rel=2e-6)
    assert result.loc == pytest.approx(loc, rel=2e-6)
    assert_near(result.cls_gradient, cls_gradient)
    assert_near(result.loc_gradient, loc_gradient)


def test_the_random_case_has_residuals_on_both_sides_of_every_break():
    case = make_case()
    positive = case.labels == 1
    anchors = torch.cat(case.anchors).expand_as(case.gt_boxes)[positive]
    targets = reference.encode(anchors, case.gt_boxes[positive])
    errors = (torch.cat(case.deltas, 1)[positive] - targets).abs()
    for breaks in ([1 / 9] * 4, reference.MATTERPORT_STD):
        share = (errors < torch.tensor(breaks)).double().mean(dim=0)
        assert ((share > 0.1) & (share < 0.9)).all()
    assert (positive.sum(dim=1) == 0).tolist() == [False, True, False]


def test_matterport_decodes_its_proposals_by_the_deviations():
    """A network that predicts the targets over their deviations proposes the objects."""
    case = make_case()
    rpn = make_rpn(*style("matterport"))
    anchors = torch.cat(case.anchors)
    targets = reference.encode(anchors, case.gt_boxes[0])
    answers = (targets / torch.tensor(reference.MATTERPORT_STD)).float()
    boxes = rpn.box2box_transform.apply_deltas(answers, anchors)
    torch.testing.assert_close(boxes, case.gt_boxes[0], rtol=1e-4, atol=1e-3)


# --- 3. labels of anchors, and the anchors that crowds exclude


def integer_boxes(generator, count, *, low, high, sizes):
    """Return boxes of few sizes on a grid, so that equal overlaps are common."""
    corner = generator.integers(low, high, size=(count, 2)) // 2 * 2
    size = generator.choice(sizes, size=(count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(float)


def make_scene(seed, *, num_objects=4, num_crowds=0):
    """Return anchors in, across and on the border of an image of (30, 40), objects and crowds."""
    generator = np.random.default_rng(seed)
    anchors = integer_boxes(generator, 300, low=-4, high=36, sizes=[4, 8, 12])
    border = [[32, 22, 40, 30], [0, 0, 8, 8], [32, 22, 41, 30], [32, 22, 40, 31], [-1, 0, 8, 8]]
    anchors = np.concatenate([anchors, np.array(border, dtype=float)])
    objects = integer_boxes(generator, num_objects, low=0, high=28, sizes=[4, 6, 10, 12])
    small = np.array([[14.0, 14.0, 16.0, 16.0]])  # at most .25: below the threshold of a negative
    objects = np.concatenate([objects, small])
    crowds = integer_boxes(generator, num_crowds, low=0, high=28, sizes=[6, 10, 16])
    return anchors, objects, crowds


def label(rpn, anchors, objects, crowds, image_size=(30, 40)):
    """Return labels and matched boxes of one image, with objects and crowds in one list."""
    boxes = torch.from_numpy(np.concatenate([crowds, objects])).float().reshape(-1, 4)
    classes = torch.tensor([-1] * len(crowds) + [3] * len(objects), dtype=torch.int64)
    instances = Instances(image_size, gt_boxes=Boxes(boxes), gt_classes=classes)
    half = len(anchors) // 2
    levels = [Boxes(torch.from_numpy(x).float()) for x in (anchors[:half], anchors[half:])]
    with EventStorage():
        labels, matched = rpn.label_and_sample_anchors(levels, [instances])
    return labels[0].numpy(), matched[0].numpy()


def label_all(*opts):
    return make_rpn(KEY + "MINING.NAME", "all", *opts)


@pytest.mark.parametrize("crowd_thresh", [None, 0.7, 0.4])
def test_tensorpack_labels_are_those_of_its_rules(crowd_thresh):
    rpn = label_all(*style("tensorpack"), KEY + "CROWD_THRESH", crowd_thresh)
    for seed in range(12):
        scene = make_scene(seed, num_crowds=seed % 3)
        labels, boxes = label(rpn, *scene)
        anchors, objects, crowds = scene
        expected, matches = reference.tensorpack_labels(
            anchors, objects, crowds, (30, 40), crowd_thresh=crowd_thresh or 9.99
        )
        assert labels.tolist() == expected.tolist()
        positive = expected == 1
        assert positive.any()
        assert boxes[positive].tolist() == objects[matches[positive]].tolist()


def test_matterport_labels_are_those_of_its_rules():
    rpn = label_all(*style("matterport"))
    for seed in range(12):
        anchors, objects, crowds = make_scene(seed, num_crowds=seed % 3)
        labels, boxes = label(rpn, anchors, objects, crowds)
        expected, matches = reference.matterport_labels(anchors, objects, crowds)
        assert labels.tolist() == expected.tolist()
        positive = expected == 1
        assert positive.any()
        assert boxes[positive].tolist() == objects[matches[positive]].tolist()


def test_the_scenes_have_every_kind_of_anchor():
    """They have ties, best anchors in each band of IoU, and objects inside and outside a crowd."""
    ties, bands, crowded = 0, set(), 0
    for seed in range(12):
        anchors, objects, crowds = make_scene(seed, num_crowds=seed % 3)
        overlap = reference.ious(anchors, objects)
        for column in overlap.T:
            ties += (column == column.max()).sum() > 1
            bands.add(np.digitize(column.max(), [0.3, 0.7]).item())
        labels, _ = reference.tensorpack_labels(anchors, objects, [], (30, 40), crowd_thresh=9.99)
        thinned, _ = reference.tensorpack_labels(
            anchors, objects, crowds, (30, 40), crowd_thresh=0.7
        )
        crowded += ((labels == 1) & (thinned == -1)).sum()
    assert ties > 5
    assert bands == {0, 1, 2}
    assert crowded > 0


NO_BOXES = np.zeros((0, 4))


@each(
    ("box", "inside"),
    [
        ([0, 0, 8, 8], True),
        ([32, 22, 40, 30], True),
        ([0, 0, 40, 30], True),
        ([32, 22, 40.5, 30], False),
        ([32, 22, 40, 30.5], False),
        ([-0.5, 0, 8, 8], False),
        ([0, -0.5, 8, 8], False),
        ([22, 32, 30, 40], False),  # inside an image with swapped height and width
    ],
)
@each("with_object", [True, False])
def test_inside_includes_an_anchor_on_the_border_and_none_across_it(box, inside, with_object):
    rpn = label_all(KEY + "MATCHED", "inside")
    anchor = np.array([box, [10, 10, 14, 14]], dtype=float)
    labels, _ = label(rpn, anchor, anchor[:1] if with_object else NO_BOXES, NO_BOXES)
    assert labels[0] == (int(with_object) if inside else -1)


def test_an_image_with_no_anchor_inside_has_none_to_train_on():
    rpn = make_rpn(*style("tensorpack"))
    anchors, objects, _ = make_scene(0)
    labels, _ = label(rpn, anchors + 100, objects, NO_BOXES)
    assert (labels == -1).all()


def test_inside_matches_an_object_with_its_best_anchor_inside():
    """Stock's BOUNDARY_THRESH drops the best anchor after the match, so the object has none."""
    anchors = np.array([[-2, 0, 8, 10], [0, 0, 4, 10], [20, 20, 28, 28]], dtype=float)
    objects = np.array([[0, 0, 8, 10]], dtype=float)
    inside, _ = label(label_all(KEY + "MATCHED", "inside"), anchors, objects, NO_BOXES)
    stock, _ = label(label_all("MODEL.RPN.BOUNDARY_THRESH", 0), anchors, objects, NO_BOXES)
    assert inside.tolist() == [-1, 1, 0]
    assert stock.tolist() == [-1, -1, 0]


# One object; anchors: on it, near it, far away, and with 100 %, 50 % and 1 % of their area in the
# crowd
CROWD = np.array([[20, 0, 40, 30]], dtype=float)
OBJECT = np.array([[20, 0, 30, 10]], dtype=float)
ANCHORS = np.array(
    [[20, 0, 30, 10], [22, 0, 32, 10], [0, 0, 10, 10], [26, 12, 36, 22], [15, 12, 25, 22]],
    dtype=float,
)
TOUCHING = np.array([[10.1, 20, 20.1, 30]], dtype=float)  # 1 % of it in the crowd, IoU .0014


@each(
    ("rule", "threshold", "expected"),
    [
        ("background", None, [1, -1, 0, 0, 0, 0]),
        ("ignore", None, [1, -1, 0, -1, 0, 0]),
        ("ignore", 0.5, [1, -1, 0, -1, -1, 0]),
        ("tensorpack", None, [1, -1, 0, 0, 0, 0]),
        ("tensorpack", 0.7, [-1, -1, 0, -1, 0, 0]),
        ("tensorpack", 0.4, [-1, -1, 0, -1, -1, 0]),
        ("matterport", None, [1, -1, 0, -1, -1, -1]),
        ("matterport", 0.1, [1, -1, 0, -1, 0, 0]),
    ],
)
def test_crowds_exclude_the_anchors_of_the_rule(rule, threshold, expected):
    rpn = label_all(KEY + "CROWD", rule, KEY + "CROWD_THRESH", threshold)
    labels, _ = label(rpn, np.concatenate([ANCHORS, TOUCHING]), OBJECT, CROWD)
    assert labels.tolist() == expected


def test_tensorpacks_crowds_exclude_only_overlaps_above_the_threshold():
    """A share of 1, which is the largest possible, does not exceed 1."""
    rpn = label_all(KEY + "CROWD", "tensorpack", KEY + "CROWD_THRESH", 1.0)
    labels, _ = label(rpn, ANCHORS, OBJECT, CROWD)
    assert labels.tolist() == [1, -1, 0, 0, 0]


@pytest.mark.parametrize("name", STYLE_NAMES)
@each("rule", ["background", "ignore", "tensorpack", "matterport"])
def test_a_crowd_region_is_never_an_object(name, rule):
    """Its box is not assigned to an anchor that is an object either."""
    rpn = label_all(*style(name), KEY + "CROWD", rule)
    crowds = ANCHORS[[3]]
    labels, boxes = label(rpn, ANCHORS, OBJECT, crowds)
    assert labels[3] == (0 if rule in ("background", "tensorpack") else -1)
    assert boxes[labels == 1].tolist() == OBJECT.tolist()
    labels, _ = label(rpn, ANCHORS, NO_BOXES, crowds)
    assert not (labels == 1).any()


@each(
    ("opts", "expected"),
    [
        ([], None),
        (style("tensorpack"), CROWD_RULES["tensorpack"]),
        (style("matterport"), CROWD_RULES["matterport"]),
        ([*style("matterport"), KEY + "CROWD", "background"], None),
        ([KEY + "CROWD", "ignore"], CROWD_RULES["ignore"]),
        (
            [KEY + "CROWD", "ignore", KEY + "CROWD_THRESH", 0.25],
            CROWD_RULES["ignore"]._replace(threshold=0.25),
        ),
    ],
)
def test_the_crowd_rule_of_a_config_is_that_of_its_model(opts, expected):
    assert crowd_rule_of(tiny_rcnn_cfg(*opts)) == make_rpn(*opts).crowd_rule == expected


@pytest.mark.parametrize("rule", ["ignore", "tensorpack", "matterport"])
def test_anchors_are_sampled_after_the_crowd_rule(rule):
    """A crowd has 60 of the 100 background anchors, and the 20 samples are from the others."""
    anchors = np.concatenate([np.tile(ANCHORS[[2]], (40, 1)), np.tile(ANCHORS[[3]], (60, 1))])
    opts = [KEY + "CROWD", rule, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 20]
    if rule == "tensorpack":
        opts += [KEY + "CROWD_THRESH", 0.7]
    rpn = make_rpn(*opts)
    for seed in range(5):
        torch.manual_seed(seed)
        labels, _ = label(rpn, anchors, NO_BOXES, CROWD)
        assert (labels[:40] == 0).sum() == 20
        assert (labels[40:] == -1).all()


@pytest.mark.parametrize("name", STYLE_NAMES)
def test_a_sample_has_the_asked_for_size_and_share_of_objects(name):
    anchors, objects, _ = make_scene(1)
    opts = ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 8, "MODEL.RPN.POSITIVE_FRACTION", 0.25]
    labels, _ = label(make_rpn(*style(name), *opts), anchors, objects, NO_BOXES)
    assert ((labels == 1).sum(), (labels == 0).sum()) == (2, 6)
    everything, _ = label(label_all(*style(name), *opts), anchors, objects, NO_BOXES)
    assert (everything == 1).sum() > 2
    assert (labels[labels != -1] == everything[labels != -1]).all()


def test_a_sample_without_objects_is_all_background():
    anchors, _, _ = make_scene(1)
    for name in STYLE_NAMES:
        rpn = make_rpn(*style(name), "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 8)
        labels, boxes = label(rpn, anchors, NO_BOXES, NO_BOXES)
        assert ((labels == 1).sum(), (labels == 0).sum()) == (0, 8)
        assert boxes.shape == (len(anchors), 4)


# --- 4. identities between them


def test_hubers_loss_over_its_delta_is_smooth_l1_with_its_break_there():
    errors = torch.linspace(-2, 2, 801, dtype=torch.float64)
    expected = reference.smooth_l1(errors, 1 / 9)
    torch.testing.assert_close(reference.huber(errors, 1 / 9) * 9, expected, rtol=1e-12, atol=1e-15)
    pred = errors[:800].float().view(-1, 4).requires_grad_()
    theirs = pred.detach().clone().requires_grad_()
    loss = huber_loss(pred, torch.zeros_like(pred), delta=1 / 9)
    other = F.smooth_l1_loss(theirs, torch.zeros_like(theirs), beta=1 / 9, reduction="sum")
    torch.testing.assert_close(loss, other)
    for mine, gradient in zip(
        torch.autograd.grad(loss, pred), torch.autograd.grad(other, theirs), strict=True
    ):
        torch.testing.assert_close(mine, gradient, rtol=1e-5, atol=1e-6)
    oracle = huber_loss(torch.tensor([[0.05, 0.2, 1.0, 0.0]]), torch.zeros(1, 4), delta=1 / 9)
    assert oracle.item() == pytest.approx(0.01125 + 0.144444 + 0.944444, abs=1e-5)


def test_stock_with_a_beta_of_one_ninth_has_tensorpacks_losses():
    case = make_case()
    stock = run(make_rpn("MODEL.RPN.SMOOTH_L1_BETA", 1 / 9, kind="RPN"), case)
    assert_same(run(make_rpn(*style("tensorpack")), case), stock)


@pytest.mark.parametrize("std", [0.1, 0.2, 2.0])
def test_dividing_the_targets_by_their_deviation_moves_the_break_and_scales_the_loss(std):
    """SL1_1(r / std) = SL1_std(r) / std; the deltas of the head are divided by std."""
    case = make_case()
    divided = case._replace(deltas=[x / std for x in case.deltas])
    opts = [KEY + "BOX_LOSS.NAME", "HuberLoss", KEY + "BOX_LOSS.HUBER_DELTA", 1.0]
    ours = run(make_rpn(*opts, KEY + "TARGET_STD", [std] * 4), divided)
    stock = run(make_rpn("MODEL.RPN.SMOOTH_L1_BETA", std, kind="RPN"), case)
    assert ours.loc == pytest.approx(stock.loc / std, rel=1e-5)
    assert_near(ours.loc_gradient, stock.loc_gradient, 1e-4)  # by deltas / std: times std


def test_target_std_is_one_over_stocks_weights():
    case = make_case()
    ours = make_rpn(KEY + "TARGET_STD", [0.1, 0.125, 0.2, 0.25])
    stock = make_rpn("MODEL.RPN.BBOX_REG_WEIGHTS", (10.0, 8.0, 5.0, 4.0), kind="RPN")
    assert_same(run(ours, case), run(stock, case))


@pytest.mark.parametrize("kind", ["mixed", "no_positives", "none_sampled"])
def test_the_softmax_of_a_logit_and_zero_is_its_sigmoid(kind):
    case = make_case(kind)
    opts = [KEY + "CLS_LOSS.NAME", "SoftmaxCrossEntropyLoss", KEY + "NORMALIZER", "batch_size"]
    assert_same(run(make_rpn(*opts), case), run(make_rpn(kind="RPN"), case))


def test_a_softmax_head_under_either_cross_entropy_trains_alike():
    """The logits of both are differences of two, and the gradients of their layers are equal."""
    inputs = make_inputs()
    results = [
        step(make_rpn("MODEL.RPN.HEAD_NAME", "SoftmaxRPNHead", *cls_loss(name)), inputs)
        for name in ("SoftmaxCrossEntropyLoss", "SigmoidCrossEntropyLoss")
    ]
    softmax, sigmoid = results
    for name, value in sigmoid[1].items():
        torch.testing.assert_close(softmax[1][name], value, rtol=1e-6, atol=0)
    assert "rpn_head.objectness_logits.weight" in sigmoid[2]
    for name, gradient in sigmoid[2].items():
        assert_near(softmax[2][name], gradient)


@pytest.mark.parametrize("num_images", [1, 3])
@pytest.mark.parametrize("num_pos", [10, 128])
def test_matterports_box_loss_is_tensorpacks_times_480_over_the_positives(num_pos, num_images):
    """This holds for one image and large residuals; everywhere, the factor is 64 / num_pos."""
    base = make_case(num_images=1)
    labels = torch.full_like(base.labels, -1)
    labels[0, :num_pos] = 1
    targets = reference.encode(torch.cat(base.anchors), base.gt_boxes[0])

    def of_images(x):
        return x.expand(num_images, *x.shape[1:])

    for size, tolerance in ((0.25, None), (1e3, 1e-3)):
        residuals = size * torch.linspace(-1, 1, targets.numel()).view_as(targets).double()
        if tolerance:
            residuals = size * residuals.sign()
        losses = {}
        for name, std in (("tensorpack", [1.0] * 4), ("matterport", reference.MATTERPORT_STD)):
            deltas = ((targets + residuals) / torch.tensor(std)).float()
            sizes = [len(x) for x in base.anchors]
            case = base._replace(
                logits=[of_images(x) for x in base.logits],
                labels=of_images(labels),
                deltas=list(of_images(deltas[None]).split(sizes, dim=1)),
                gt_boxes=of_images(base.gt_boxes),
            )
            losses[name] = run(make_rpn(*style(name)), case).loc
        ratio = losses["matterport"] / losses["tensorpack"]
        kept = residuals[:num_pos]
        std = torch.tensor(reference.MATTERPORT_STD)
        weighted = torch.stack(
            [reference.smooth_l1(r, s.item()) / s for r, s in zip(kept.T, std, strict=True)]
        )
        exact = 64 / num_pos * (weighted.sum() / reference.smooth_l1(kept, 1 / 9).sum()).item()
        assert ratio == pytest.approx(exact, rel=1e-4)
        if tolerance:
            assert ratio == pytest.approx(480 / num_pos, rel=tolerance)


# --- 5. every loss, miner and normalizer


@each("sampling", ["random", "all"])
@pytest.mark.parametrize("name", CLS_LOSSES)
def test_every_classification_loss_trains_a_step(name, sampling):
    rpn = make_rpn(*cls_loss(name), KEY + "MINING.NAME", sampling)
    assert type(rpn.cls_loss).__name__ == name
    _, losses, gradients, logged, _ = step(rpn, make_inputs())
    assert losses["loss_rpn_cls"] > 0
    assert gradients["rpn_head.objectness_logits.weight"].norm() > 0
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert logged["rpn/num_pos_anchors"] > 0


def test_a_loss_whose_scores_are_no_sigmoids_is_refused():
    with pytest.raises(ValueError, match="StandardRPNHead does not decode the logits of Gumbel"):
        make_rpn(*cls_loss("GumbelLoss"))


@pytest.mark.slow
@each("sampling", ["random", "all"])
@pytest.mark.parametrize("name", BOX_LOSSES)
def test_every_box_loss_trains_a_step(name, sampling):
    rpn = make_rpn(KEY + "BOX_LOSS.NAME", name, KEY + "MINING.NAME", sampling)
    assert type(rpn.box_loss) is BOX_LOSS_REGISTRY.get(name)
    _, losses, gradients, _, _ = step(rpn, make_inputs())
    assert losses["loss_rpn_loc"] > 0
    assert gradients["rpn_head.anchor_deltas.weight"].norm() > 0
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@each("kind", ["mixed", "no_positives", "none_sampled"])
@pytest.mark.parametrize("name", CLS_LOSSES)
def test_the_gradient_of_an_anchor_that_is_ignored_is_zero(name, kind):
    case = make_case(kind)
    result = run(make_rpn(*cls_loss(name)), case)
    assert result.losses["loss_rpn_cls"].isfinite()
    assert (result.cls_gradient[case.labels == -1] == 0).all()
    assert (result.loc_gradient[case.labels != 1] == 0).all()


@each(
    "opts",
    [
        [],
        style("tensorpack"),
        style("matterport"),
        *([KEY + "MINING.NAME", name] for name in MINERS),
    ],
)
def test_a_nan_in_ignored_anchors_does_not_leak(opts):
    """They are the logits of ignored anchors, and deltas and boxes of anchors without an object."""
    case = make_case()
    sizes = [len(x) for x in case.anchors]
    logits, deltas = torch.cat(case.logits, 1), torch.cat(case.deltas, 1)
    expected = run(make_rpn(*opts), case)
    logits[case.labels == -1] = NAN
    deltas[case.labels == -1] = NAN
    gt_boxes = case.gt_boxes.clone()
    gt_boxes[case.labels != 1] = NAN
    case = case._replace(
        logits=list(logits.split(sizes, dim=1)),
        deltas=list(deltas.split(sizes, dim=1)),
        gt_boxes=gt_boxes,
    )
    result = run(make_rpn(*opts), case)
    assert_same(result, expected, 0)
    assert result.logged == expected.logged


@pytest.mark.parametrize("name", MINERS)
@each("kind", ["mixed", "no_positives", "none_sampled"])
def test_a_miner_keeps_its_quota_of_each_image(name, kind):
    """
    Check a quota per batch, or SSD's quota: each positive and three negatives for it.

    Anchors that are not kept have no gradient and are not counted.
    """
    batch_size = 60
    case = make_case(kind)
    opts = [KEY + "MINING.NAME", name, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", batch_size]
    rpn = make_rpn(*opts)
    result = run(rpn, case)
    kept = result.cls_gradient != 0
    quota = torch.full((3,), batch_size)
    if name == "SSDMiner":
        num_pos = (case.labels == 1).sum(dim=1)
        # EMPTY_IMAGE_NEGATIVES for an image without positives
        quota = torch.where(num_pos > 0, 4 * num_pos, 3)
    assert (kept.sum(dim=1) <= quota).all()
    assert kept.any() == (kind != "none_sampled")
    assert not (kept & (case.labels == -1)).any()
    boxed = (result.loc_gradient != 0).any(dim=2)
    assert torch.equal(boxed, kept & (case.labels == 1))
    num_pos, num_neg = boxed.sum().item(), (kept & (case.labels == 0)).sum().item()
    assert result.logged["rpn/num_pos_anchors"] == pytest.approx(num_pos / 3)
    assert result.logged["rpn/num_neg_anchors"] == pytest.approx(num_neg / 3)


@pytest.mark.parametrize("boxes", ["anchors", "decoded"])
@pytest.mark.parametrize("num_keep", [16, 60])
def test_ohem_keeps_what_its_function_keeps_of_the_same_losses(boxes, num_keep):
    case = make_case()
    opts = [KEY + "MINING.NAME", "OHEMMiner", KEY + "MINING.NMS_BOXES", boxes]
    opts += ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", num_keep, KEY + "MINING.NMS_THRESH", 0.6]
    rpn = make_rpn(*opts)
    result = run(rpn, case)
    logits, deltas = torch.cat(case.logits, 1), torch.cat(case.deltas, 1)
    anchors = torch.cat(case.anchors)
    losses = reference.binary_cross_entropy(logits.double(), (case.labels == 1).double())
    expected_cls = 0.0
    for image in range(3):
        labels = torch.where(case.labels[image] == -1, -1, 1 - case.labels[image].long())
        decoded = rpn.box2box_transform.apply_deltas(deltas[image], anchors)
        keep = ohem_keep_mask(
            losses[image].float(),
            labels,
            decoded if boxes == "decoded" else anchors,
            num_keep=num_keep,
            nms_thresh=0.6,
            num_classes=1,
        )
        assert torch.equal(result.cls_gradient[image] != 0, keep)
        expected_cls += losses[image][keep].sum().item() / (num_keep * 3)
    assert result.cls == pytest.approx(expected_cls, rel=1e-5)


@pytest.mark.parametrize("name", ["all", *MINERS])
def test_only_random_sampling_touches_the_random_generator(name):
    inputs = make_inputs()
    start = torch.manual_seed(5).get_state()
    assert torch.equal(step(make_rpn(KEY + "MINING.NAME", name), inputs)[4], start)
    assert not torch.equal(step(make_rpn(KEY + "MINING.NAME", "random"), inputs)[4], start)


def test_all_anchors_that_have_a_label_count():
    images, features, instances = make_inputs()
    rpn = make_rpn(KEY + "MINING.NAME", "all", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 1)
    anchors = rpn.anchor_generator(list(features.values()))
    labels, _ = rpn.label_and_sample_anchors(anchors, instances)
    labels = torch.stack(labels)
    *_, logged, _ = step(rpn, (images, features, instances))
    assert logged["rpn/num_pos_anchors"] == pytest.approx((labels == 1).sum().item() / 3)
    assert logged["rpn/num_neg_anchors"] == pytest.approx((labels == 0).sum().item() / 3)
    assert logged["rpn/num_neg_anchors"] > 400


@each("kind", ["mixed", "no_positives", "none_sampled"])
@pytest.mark.parametrize("name", RPN_NORMALIZERS)
def test_every_normalizer_divides_by_its_number(name, kind):
    """Sum the terms of each image over its divisor."""
    case = make_case(kind)
    positive, counted = case.labels == 1, case.labels != -1
    logits, deltas = torch.cat(case.logits, 1).double(), torch.cat(case.deltas, 1).double()
    cls = reference.binary_cross_entropy(logits, positive.double()) * counted
    targets = reference.encode(torch.cat(case.anchors).expand_as(case.gt_boxes), case.gt_boxes)
    loc = (deltas - targets).abs().sum(dim=2) * positive
    num_pos = positive.sum(dim=1)
    batch = max(num_pos.sum().item(), 1)
    divisors = {
        "batch_size": 256 * 3,
        "mean": (max(counted.sum().item(), 1), max(4 * num_pos.sum().item(), 1)),
        "ema": 0.9 * 100 + 0.1 * batch,
        "ema_global": 0.9 * 100 + 0.1 * batch,
        "batch": batch,
        "global": batch,
        "per_image": 3 * num_pos.clamp(min=1),
        "fixed": 100,
    }[name]
    cls_divisors, loc_divisors = divisors if isinstance(divisors, tuple) else (divisors, divisors)
    result = run(make_rpn(KEY + "NORMALIZER", name), case)
    assert result.cls == pytest.approx((cls.sum(1) / cls_divisors).sum().item(), rel=1e-5)
    assert result.loc == pytest.approx((loc.sum(1) / loc_divisors).sum().item(), rel=1e-5)


def test_a_mined_mean_is_that_of_what_is_kept():
    case = make_case()
    opts = [KEY + "MINING.NAME", "TopKMiner", KEY + "NORMALIZER", "mean"]
    result = run(make_rpn(*opts, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 40), case)
    logits, positive = torch.cat(case.logits, 1).double(), case.labels == 1
    losses = reference.binary_cross_entropy(logits, positive.double())
    hardest = losses.masked_fill(case.labels == -1, -1).topk(40, dim=1)
    assert result.cls == pytest.approx(hardest.values.mean().item(), rel=1e-5)
    boxed = torch.zeros_like(positive).scatter(1, hardest.indices, True) & positive
    targets = reference.encode(
        torch.cat(case.anchors).expand_as(case.gt_boxes)[boxed], case.gt_boxes[boxed]
    )
    errors = torch.cat(case.deltas, 1)[boxed] - targets
    assert len(errors) > 3
    assert result.loc == pytest.approx(errors.abs().mean().item(), rel=1e-5)


# --- 6. any mixture of keys


# Keys that each style sets and stock does not, repeated here, with the attributes of the module
# that they change: attribute -> value.
DIFFERENCES = {
    "tensorpack": {
        ("BOX_LOSS.NAME", "HuberLoss"): {"box_loss": "HuberLoss", "delta": 1 / 9},
        ("LOW_QUALITY", "clobber"): {"low_quality": "clobber"},
        ("MATCHED", "inside"): {"inside": True},
        ("CROWD", "tensorpack"): {"crowd": ("pairwise_ioa", 9.99, True)},
        ("PRECISION_RECALL", True): {"precision_recall": True},
    },
    "matterport": {
        ("CLS_LOSS.NAME", "SoftmaxCrossEntropyLoss"): {"cls_loss": "SoftmaxCrossEntropyLoss"},
        ("BOX_LOSS.NAME", "HuberLoss"): {"box_loss": "HuberLoss", "delta": 1 / 9},
        ("BOX_LOSS.HUBER_DELTA", 1.0): {},  # used by HuberLoss only
        ("TARGET_STD", (0.1, 0.1, 0.2, 0.2)): {"weights": (10.0, 10.0, 5.0, 5.0)},
        ("NORMALIZER", "mean"): {"normalizer": "MeanNormalizer"},
        ("CROWD", "matterport"): {"crowd": ("pairwise_iou", 0.001, False)},
    },
}
STOCKS = {
    "cls_loss": "SigmoidCrossEntropyLoss",
    "alpha": None,
    "box_loss": "SmoothL1Loss",
    "delta": None,
    "beta": 0.0,
    "weights": (1.0, 1.0, 1.0, 1.0),
    "normalizer": "SampleSizeNormalizer",
    "low_quality": "on",
    "inside": False,
    "crowd": None,
    "samples": True,
    "miner": None,
    "precision_recall": False,
}
SINGLE_KEYS = [
    (name, key, value, expected)
    for name, keys in DIFFERENCES.items()
    for (key, value), expected in keys.items()
]


def describe(rpn):
    rule = rpn.crowd_rule
    return {
        "cls_loss": type(rpn.cls_loss).__name__,
        "alpha": rpn.cls_loss.alpha,
        "box_loss": type(rpn.box_loss).__name__,
        "delta": getattr(rpn.box_loss, "delta", None),
        "beta": getattr(rpn.box_loss, "beta", 0.0),
        "weights": tuple(round(x, 6) for x in rpn.box2box_transform.weights),
        "normalizer": type(rpn.normalizer).__name__,
        "low_quality": rpn.anchor_matcher.low_quality,
        "inside": rpn.matches_inside_only,
        "crowd": rule and (rule.overlap.__name__, rule.threshold, rule.positives),
        "samples": rpn.samples,
        "miner": rpn.miner,
        "precision_recall": rpn.logs_precision_recall,
    }


def test_the_default_is_stocks_parts():
    assert describe(make_rpn()) == describe(make_rpn(*style("detectron2"))) == STOCKS


@each("case", SINGLE_KEYS)
def test_a_key_of_a_style_alone_is_exactly_its_difference_from_stock(case):
    _, key, value, expected = case
    assert describe(make_rpn(KEY + key, value)) == {**STOCKS, **expected}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_style_equals_stock_with_all_of_its_keys(name):
    """They are equal in components, labels and losses."""
    keys = [x for key, value in DIFFERENCES[name] for x in (KEY + key, value)]
    styled, explicit = make_rpn(*style(name)), make_rpn(*keys)
    expected = dict(STOCKS)
    for difference in DIFFERENCES[name].values():
        expected.update(difference)
    if name == "matterport":
        expected["delta"] = 1.0
    assert describe(styled) == describe(explicit) == expected
    case = make_case()
    assert_same(run(styled, case), run(explicit, case), 0)
    scene = make_scene(2, num_crowds=2)
    labels = []
    for rpn in (styled, explicit):
        torch.manual_seed(0)
        labels.append(label(rpn, *scene)[0].tolist())
    assert labels[0] == labels[1]


BACK_TO_STOCK = [
    ("CLS_LOSS.NAME", "SigmoidCrossEntropyLoss", {"cls_loss"}),
    ("BOX_LOSS.NAME", "SmoothL1Loss", {"box_loss", "delta"}),
    ("TARGET_STD", (1.0, 1.0, 1.0, 1.0), {"weights"}),
    ("NORMALIZER", "batch_size", {"normalizer"}),
    ("LOW_QUALITY", "on", {"low_quality"}),
    ("MATCHED", "all", {"inside"}),
    ("CROWD", "background", {"crowd"}),
    ("MINING.NAME", "random", set()),
    ("PRECISION_RECALL", False, {"precision_recall"}),
]


@pytest.mark.parametrize("name", DIFFERENCES)
@each("case", BACK_TO_STOCK)
def test_a_key_overrides_its_style_and_nothing_else(name, case):
    key, value, attributes = case
    styled = describe(make_rpn(*style(name)))
    expected = {**styled, **{x: STOCKS[x] for x in attributes}}
    assert describe(make_rpn(*style(name), KEY + key, value)) == expected


def test_stocks_own_keys_apply_under_every_style():
    for name in STYLE_NAMES:
        opts = ["MODEL.RPN.IOU_THRESHOLDS", [0.2, 0.6], "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 32]
        rpn = make_rpn(*style(name), *opts, "MODEL.RPN.POSITIVE_FRACTION", 0.25)
        assert rpn.anchor_matcher.thresholds[1:-1] == [0.2, 0.6]
        assert (rpn.batch_size_per_image, rpn.positive_fraction) == (32, 0.25)


@each(
    ("key", "value", "read"),
    [
        ("CLS_LOSS.GAMMA", 1.5, lambda rpn: rpn.cls_loss.gamma),
        ("CLS_LOSS.ALPHA", 0.75, lambda rpn: rpn.cls_loss.alpha),
        ("CLS_LOSS.LABEL_SMOOTHING", 0.1, lambda rpn: rpn.cls_loss.label_smoothing),
        ("CROWD_THRESH", 0.25, lambda rpn: rpn.crowd_rule.threshold),
        ("MINING.NMS_THRESH", 0.25, lambda rpn: rpn.miner.nms_thresh),
        ("MINING.NMS_PER_LABEL", True, lambda rpn: rpn.miner.nms_per_label),
        ("MINING.BOX_LOSS_ON", "all", lambda rpn: rpn.miner.box_loss_on),
    ],
)
def test_an_option_is_read_from_the_rpns_key(key, value, read):
    opts = [
        *cls_loss("SigmoidFocalLoss"),
        KEY + "CROWD",
        "ignore",
        KEY + "MINING.NAME",
        "OHEMMiner",
    ]
    assert read(make_rpn(*opts)) != value
    assert read(make_rpn(*opts, KEY + key, value)) == value


def test_an_alpha_of_none_is_that_of_the_loss_and_minus_one_is_off():
    def alpha(name, *opts):
        return make_rpn(*cls_loss(name), *opts).cls_loss.alpha

    assert alpha("SigmoidFocalLoss") == 0.25
    assert alpha("SigmoidFocalLoss", KEY + "CLS_LOSS.ALPHA", -1.0) is None
    assert alpha("SigmoidCrossEntropyLoss") is None


def test_the_keys_of_the_dense_detector_change_nothing():
    opts = ["MODEL.RETINANET.FOCAL_LOSS_GAMMA", 5.0, "MODEL.RETINANET.FOCAL_LOSS_ALPHA", 0.9]
    opts += ["MODEL.FOCAL.CLS_LOSS.LABEL_SMOOTHING", 0.3, "MODEL.FOCAL.NORMALIZER.NAME", "fixed"]
    opts += ["MODEL.RETINANET.SMOOTH_L1_LOSS_BETA", 0.9, "MODEL.FOCAL.MINING.NAME", "TopKMiner"]
    opts += ["MODEL.FOCAL.BOX_LOSS.NAME", "GIoULoss", "MODEL.RETINANET.NUM_CLASSES", 7]
    opts += ["MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY", "off"]
    for more in ([], cls_loss("SigmoidFocalLoss"), [KEY + "MINING.NAME", "OHEMRatioMiner"]):
        case = make_case()
        assert_same(run(make_rpn(*opts, *more), case), run(make_rpn(*more), case), 0)


def test_with_style_leaves_the_config_that_it_is_given():
    cfg = tiny_rcnn_cfg(*style("matterport"), KEY + "LOW_QUALITY", "off")
    before = copy.deepcopy(cfg)
    cfg.freeze()
    styled = with_style(cfg)
    assert cfg == before
    assert cfg.is_frozen()
    assert styled.MODEL.FOCAL.RPN.NORMALIZER == "mean"
    assert styled.MODEL.FOCAL.RPN.LOW_QUALITY == "off"
    FocalRPN.from_config(cfg, SHAPES)
    assert cfg == before


def test_a_config_shares_no_list_with_the_styles():
    """An append to the config's list would change every later model."""
    for name in STYLE_NAMES:
        deviations = with_style(tiny_rcnn_cfg(*style(name))).MODEL.FOCAL.RPN.TARGET_STD
        assert isinstance(deviations, tuple) or deviations is not STYLES[name]["TARGET_STD"]


# --- 7. weights, and what is logged


@pytest.mark.parametrize("name", STYLE_NAMES)
def test_each_weight_scales_exactly_one_loss(name):
    case = make_case()
    plain = run(make_rpn(*style(name)), case)
    cls = run(make_rpn(*style(name), KEY + "CLS_LOSS.WEIGHT", 4.0), case)
    loc = run(make_rpn(*style(name), KEY + "BOX_LOSS.WEIGHT", 0.25), case)
    assert_same(cls, multiply(plain, cls=4.0), 0)
    assert_same(loc, multiply(plain, loc=0.25), 0)


def test_the_weights_multiply_those_of_stock():
    case = make_case()
    plain = run(make_rpn(), case)
    opts = ["MODEL.RPN.LOSS_WEIGHT", 0.5, "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 3.0]
    opts += [KEY + "CLS_LOSS.WEIGHT", 4.0, KEY + "BOX_LOSS.WEIGHT", 2.0]
    assert_same(run(make_rpn(*opts), case), multiply(plain, cls=2.0, loc=3.0))


@pytest.mark.parametrize("name", STYLE_NAMES)
def test_the_logged_ratio_is_that_of_the_returned_losses(name):
    case = make_case()
    weights = [KEY + "CLS_LOSS.WEIGHT", 3.0, KEY + "BOX_LOSS.WEIGHT", 0.5]
    for opts in ([], weights):
        result = run(make_rpn(*style(name), *opts), case)
        assert result.logged["rpn/loc_to_cls_ratio"] == pytest.approx(result.loc / result.cls)


@pytest.mark.parametrize("opts", [[], [KEY + "CLS_LOSS.WEIGHT", 0.0]])
def test_no_ratio_is_logged_where_there_is_no_objectness_loss(opts):
    case = make_case("mixed" if opts else "none_sampled")
    assert "rpn/loc_to_cls_ratio" not in run(make_rpn(*opts), case).logged
    no_boxes = run(make_rpn(), make_case("no_positives"))
    assert no_boxes.logged["rpn/loc_to_cls_ratio"] == 0


def test_precision_and_recall_of_each_level_are_counts():
    case = make_case()
    case.labels[0, -1], case.logits[-1][0, -1] = 1, 1.0  # p6 has few anchors
    logged = run(make_rpn(KEY + "PRECISION_RECALL", True), case).logged
    sizes = [len(x) for x in case.anchors]
    levels = zip(LEVELS, case.logits, case.labels.split(sizes, dim=1), strict=True)
    names = set()
    for level, logits, labels in levels:
        for threshold in (0.5, 0.2, 0.1):
            values = reference.precision_and_recall(logits, labels, threshold)
            for metric, value in zip(("precision", "recall"), values, strict=True):
                name = f"rpn/{level}/{metric}_th{threshold}"
                assert value is not None, "the case is too weak"
                assert logged[name] == pytest.approx(value), name
                names.add(name)
    others = {"rpn/num_pos_anchors", "rpn/num_neg_anchors", "rpn/loc_to_cls_ratio"}
    assert logged.keys() - others == names


def test_a_metric_with_a_denominator_of_zero_is_not_logged():
    case = make_case("no_positives")
    case = case._replace(logits=[torch.full_like(x, -5.0) for x in case.logits])
    logged = run(make_rpn(*style("tensorpack")), case).logged
    assert not [name for name in logged if "precision" in name or "recall" in name]
    case.logits[1][:] = 5.0  # all above the threshold, and none an object
    logged = run(make_rpn(*style("tensorpack")), case).logged
    metrics = {name: x for name, x in logged.items() if "precision" in name or "recall" in name}
    assert metrics == {f"rpn/p4/precision_th{x}": 0.0 for x in (0.5, 0.2, 0.1)}


@pytest.mark.parametrize("name", STYLE_NAMES)
def test_only_tensorpack_logs_precision_and_recall(name):
    logged = run(make_rpn(*style(name)), make_case()).logged
    assert ("rpn/p3/recall_th0.5" in logged) == (name == "tensorpack")


# --- 8. illegal values


@each(
    ("key", "value"),
    [
        ("STYLE", "keras"),
        ("STYLE", ""),
        ("CROWD", "detectron"),
        ("CROWD_THRESH", 0.0),
        ("CROWD_THRESH", -0.7),
        ("CROWD_THRESH", NAN),
        ("MATCHED", "outside"),
        ("MINING.NAME", "hard"),
        ("LOW_QUALITY", "best"),
        ("TARGET_STD", [0.1, 0.1, 0.2]),
        ("TARGET_STD", [0.1, 0.1, 0.2, 0.0]),
        ("TARGET_STD", [0.1, 0.1, -0.2, 0.2]),
        ("TARGET_STD", [NAN, 0.1, 0.2, 0.2]),
        ("TARGET_STD", [0.1, 0.1, 0.2, NAN]),
        ("TARGET_STD", [0.1, 0.1, 0.2, INF]),
        ("CLS_LOSS.WEIGHT", -1.0),
        ("CLS_LOSS.WEIGHT", NAN),
        ("CLS_LOSS.WEIGHT", INF),
        ("BOX_LOSS.WEIGHT", -1.0),
        ("BOX_LOSS.WEIGHT", NAN),
        ("BOX_LOSS.WEIGHT", INF),
        ("CLS_LOSS.GAMMA", -1.0),
        ("CLS_LOSS.ALPHA", 1.5),
        ("CLS_LOSS.LABEL_SMOOTHING", -0.5),
        ("BOX_LOSS.HUBER_DELTA", 0.0),
        ("MINING.NMS_THRESH", 1.5),
        ("MINING.SCOPE", "gpu"),
    ],
)
def test_an_illegal_value_is_an_error_that_names_its_full_key(key, value):
    opts = [*cls_loss("SigmoidFocalLoss"), KEY + "BOX_LOSS.NAME", "HuberLoss"]
    opts += [KEY + "MINING.NAME", "OHEMMiner"] if key.startswith("MINING") else []
    opts += [KEY + "CROWD", "ignore"] if key.startswith("CROWD_") else []
    with pytest.raises(ValueError, match=rf"^{(KEY + key).replace('.', '[.]')} must be "):
        make_rpn(*opts, KEY + key, value)


@pytest.mark.parametrize("key", ["CLS_LOSS.NAME", "BOX_LOSS.NAME", "NORMALIZER"])
def test_an_unknown_name_is_an_error_that_names_its_key_and_the_known_ones(key):
    known = {"CLS_LOSS.NAME": sorted(dict(CLS_LOSS_REGISTRY)), "BOX_LOSS.NAME": BOX_LOSSES}.get(
        key, sorted(RPN_NORMALIZERS)
    )
    with pytest.raises(KeyError) as error:
        make_rpn(KEY + key, "Unknown")
    assert f"{KEY}{key} = 'Unknown' is not one of {', '.join(known)}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("SigmoidFocalLoss", "CLS_LOSS.CLASS_ALPHA", [0.2, 0.3]),
        ("ClassBalancedFocalLoss", "CLS_LOSS.SAMPLES_PER_CLASS", [10, 20]),
        ("EqualizationLoss", "CLS_LOSS.SAMPLES_PER_CLASS", [10, 20]),
    ],
)
def test_a_list_that_is_not_of_one_class_is_an_error_that_names_the_rpns_key(name, key, value):
    with pytest.raises(ValueError, match="must be 1 numbers, one for each class, got 2") as error:
        run(make_rpn(*cls_loss(name), KEY + key, value), make_case())
    assert KEY + key in str(error.value)
    assert "MODEL.FOCAL." + key not in str(error.value)


# --- 9. low precision and saturation


@each("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", STYLE_NAMES)
def test_half_precision_has_the_float32_losses_of_its_values(name, dtype):
    case = make_case()
    half = case._replace(
        logits=[x.to(dtype) for x in case.logits], deltas=[x.to(dtype) for x in case.deltas]
    )
    rounded = case._replace(
        logits=[x.float() for x in half.logits], deltas=[x.float() for x in half.deltas]
    )
    expected = run(make_rpn(*style(name)), rounded)
    plain = run(make_rpn(*style(name)), half)
    with torch.autocast("cpu", dtype=dtype):
        cast = run(make_rpn(*style(name)), half)
    for result in (plain, cast):
        for loss, value in expected.losses.items():
            assert result.losses[loss].dtype == torch.float32
            torch.testing.assert_close(result.losses[loss], value, rtol=1e-6, atol=0)
        assert_near(result.cls_gradient, expected.cls_gradient, 1e-2)
        assert_near(result.loc_gradient, expected.loc_gradient, 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("box_loss", BOX_LOSSES)
@each("sampling", ["random", "OHEMMiner"])
def test_half_precision_has_float32_losses_whatever_the_parts(box_loss, sampling):
    case = make_case()
    case = case._replace(
        logits=[x.half() for x in case.logits], deltas=[x.half() for x in case.deltas]
    )
    opts = [
        *cls_loss("VarifocalLoss"),
        KEY + "BOX_LOSS.NAME",
        box_loss,
        KEY + "MINING.NAME",
        sampling,
    ]
    for loss in run(make_rpn(*opts), case).losses.values():
        assert loss.dtype == torch.float32
        assert loss.isfinite()


@pytest.mark.parametrize("name", CLS_LOSSES)
def test_saturated_logits_have_finite_losses_and_gradients(name):
    case = make_case()
    signs = [torch.where(torch.rand(x.shape) < 0.5, -1e4, 1e4) for x in case.logits]
    result = run(make_rpn(*cls_loss(name)), case._replace(logits=signs))
    assert all(loss.isfinite() for loss in result.losses.values())
    assert result.cls_gradient.isfinite().all()
    assert result.loc_gradient.isfinite().all()


# --- without a config


def test_it_can_be_constructed_without_a_config():
    explicit = FocalRPN.from_config(tiny_rcnn_cfg("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 256), SHAPES)
    for optional in ("sampling", "matched", "crowd_rule", "logs_precision_recall"):
        del explicit[optional]
    explicit["loss_weight"] = 2.0
    case = make_case()
    expected = multiply(run(make_rpn(), case), cls=2.0, loc=2.0)
    assert_same(run(FocalRPN(**explicit), case), expected)
