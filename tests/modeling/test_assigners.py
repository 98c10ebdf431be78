"""Assigners of the detectors, and the loss that has no labels of anchors."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from focal_plugin import arms, get_cfg
from focal_plugin.assignment import atss_assign, paa_assign, simota_assign, tal_assign
from focal_plugin.losses import (
    GumbelLoss,
    free_anchor_loss,
    giou_loss,
    quality_focal_loss,
    sigmoid_focal_loss,
)
from focal_plugin.losses.box_iou import giou_loss_of_boxes
from focal_plugin.modeling.assigners import (
    ASSIGNER_REGISTRY,
    AnchorGrid,
    Assigner,
    ATSSAssigner,
    DensePredictions,
    build_assigner,
)
from focal_plugin.modeling.retinanet import view_as_anchors
from focal_plugin.modeling.unlabeled_classes import FIELD
from focal_plugin.registry import configurable

from ..each import each
from ..registrations import registrations_kept
from .toy import NUM_CLASSES, gradients_of, losses_of, narrow_cfg, tiny_model, toy_batch

NAME = "MODEL.FOCAL.ASSIGNER.NAME"
RULES = ("max_iou", "atss", "tal", "simota", "paa")
READERS = ("tal", "simota", "paa")


class Step:
    """Anchors and predictions of a model for a batch."""

    def __init__(self, model, batch):
        self.model = model
        self.instances = [x["instances"] for x in batch]
        with torch.no_grad():
            images = model.preprocess_image(batch)
            features = model.backbone(images.tensor)
            features = [features[name] for name in model.head_in_features]
            self.anchors = model.anchor_generator(features)
            logits, deltas = model.head(features)
        self.logits = [view_as_anchors(x, NUM_CLASSES) for x in logits]
        self.deltas = [view_as_anchors(x, 4) for x in deltas]
        self.predictions = DensePredictions(self.logits, self.deltas, model.box2box_transform)

    @property
    def levels(self):
        return [boxes.tensor for boxes in self.anchors]

    def image(self, n):
        """Return logits, decoded boxes, anchors, gt_boxes and gt_classes."""
        anchors = torch.cat(self.levels)
        logits = torch.cat([x[n].reshape(-1, NUM_CLASSES) for x in self.logits])
        deltas = torch.cat([x[n].reshape(-1, 4) for x in self.deltas])
        boxes = self.model.box2box_transform.apply_deltas(deltas, anchors)
        objects = self.instances[n]
        return logits, boxes, anchors, objects.gt_boxes.tensor, objects.gt_classes

    def targets(self):
        return self.model.assign(self.anchors, self.instances, self.predictions)


def random_weights(model, scale=0.05):
    """Give the last layers weights that make scores and boxes differ."""
    generator = torch.Generator().manual_seed(3)
    for layer in (model.head.cls_score, model.head.bbox_pred):
        weight = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.data.copy_(weight * scale)
    return model


@pytest.fixture(scope="module")
def batch():
    return toy_batch()


def expected_objects(name, step, n):
    logits, boxes, anchors, gt_boxes, gt_classes = step.image(n)
    if name == "atss":
        return atss_assign(step.levels, gt_boxes, k=9, anchors_per_location=9), None
    if name == "tal":
        return tal_assign(logits, boxes, anchors, gt_boxes, gt_classes)
    if name == "simota":
        strides = [torch.full((len(x),), s) for x, s in zip(step.levels, (8, 16, 32), strict=True)]
        centers = (anchors[:, :2] + anchors[:, 2:]) / 2
        return (
            simota_assign(logits, boxes, centers, torch.cat(strides), gt_boxes, gt_classes),
            None,
        )

    def loss(i, g):
        focal = torch.stack(
            [
                sigmoid_focal_loss(logits[j], gt_classes[k])
                for j, k in zip(i.tolist(), g.tolist(), strict=True)
            ]
        )
        return focal + giou_loss_of_boxes(boxes[i], gt_boxes[g])

    return paa_assign(step.levels, gt_boxes, loss), None


@pytest.mark.parametrize("name", RULES[1:])
def test_the_labels_are_those_of_the_rule_alone(name, batch):
    step = Step(random_weights(tiny_model(NAME, name)), batch)
    targets = step.targets()
    for n, instances in enumerate(step.instances):
        objects, soft = expected_objects(name, step, n)
        positive = objects >= 0
        assert positive.any() == (len(instances) > 0)
        classes = torch.cat([instances.gt_classes, torch.tensor([NUM_CLASSES])])
        assert torch.equal(targets.labels[n], classes[objects])
        assert torch.equal(targets.objects[n][positive], objects[positive])
        assert torch.equal(
            targets.gt_boxes[n][positive], instances.gt_boxes.tensor[objects[positive]]
        )
        missing = len(instances) - len(objects[positive].unique())
        assert targets.num_unassigned[n] == missing
        assert (targets.quality is None) == (soft is None)
        if soft is not None:
            assert torch.equal(targets.quality[n], soft)
            assert torch.equal(targets.weight[n], soft)


def test_stocks_rule_is_the_default_and_has_no_state():
    model = tiny_model()
    assert model.assigner is None
    assert model.bag_loss is None
    assert list(model.state_dict()) == list(tiny_model(NAME, "atss").state_dict())


def test_the_number_of_candidates_can_ignore_the_number_of_anchors(batch):
    model = tiny_model(NAME, "atss", "MODEL.FOCAL.ASSIGNER.ATSS_PER_ANCHOR", False)
    step = Step(model, batch)
    gt_boxes = step.instances[0].gt_boxes.tensor
    expected = atss_assign(step.levels, gt_boxes, k=9, anchors_per_location=None)
    assert torch.equal(step.targets().labels[0] != NUM_CLASSES, expected >= 0)


@pytest.mark.parametrize("name", RULES)
def test_a_crowd_is_no_object_and_ignores_the_background_in_it(name, batch):
    crowd = Instances((128, 160))
    crowd.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 128.0, 128.0]]))
    crowd.gt_classes = torch.tensor([-1])
    objects = batch[0]["instances"]
    with_crowd = [{**batch[0], "instances": Instances.cat([crowd, objects])}]
    opts = (NAME, name, "MODEL.FOCAL.ANCHOR_LABELS.CROWD", "ignore")
    model = random_weights(tiny_model(*opts))
    alone = Step(model, batch[:1]).targets().labels
    labels = Step(model, with_crowd).targets().labels
    ignored = (labels == -1) & (alone != -1)
    assert ignored.any()
    assert set(alone[ignored].tolist()) == {NUM_CLASSES}
    assert torch.equal(labels[~ignored], alone[~ignored])


@pytest.mark.parametrize("name", RULES)
def test_objects_without_an_anchor_are_logged(name, batch):
    tiny = {**batch[0], "instances": Instances((128, 160))}
    tiny["instances"].gt_boxes = Boxes(torch.tensor([[1e4, 1e4, 1e4 + 9, 1e4 + 9]] * 3))
    tiny["instances"].gt_classes = torch.tensor([0, 1, 2])
    with EventStorage() as storage:
        random_weights(tiny_model(NAME, name))([batch[0], tiny])
        assert storage.latest()["num_objects_without_anchor"][0] == 1.5


def test_the_loss_of_tal_is_the_quality_focal_loss_of_its_target(batch):
    """Both losses are divided by the sum of the targets."""
    cfg = narrow_cfg("Shapes-Detection/retinanet_small.yaml", "MODEL.RETINANET.NUM_CLASSES", 8)
    arms.apply(cfg, "tal")
    cfg.MODEL.FOCAL.ASSIGNER.TAL_WARMUP = 0.0
    torch.manual_seed(0)
    model = random_weights(build_model(cfg), scale=0.2)
    step = Step(model, batch)
    losses = losses_of(model, batch)
    targets = step.targets()
    total = targets.quality.sum()
    assert total > 1
    logits = torch.cat([x.reshape(3, -1, 8) for x in step.logits], dim=1)
    expected = quality_focal_loss(logits, targets.labels, targets.quality) / total
    torch.testing.assert_close(losses["loss_cls"], expected)
    box_loss = 0.0
    for n in range(3):
        _, boxes, *_ = step.image(n)
        positive = (targets.labels[n] != 8).nonzero().flatten().tolist()
        for i in positive:
            pair = boxes[i : i + 1], targets.gt_boxes[n][i : i + 1]
            box_loss = box_loss + targets.quality[n, i] * giou_loss(*pair)
    torch.testing.assert_close(losses["loss_box_reg"], 2 * box_loss / total)


WARMUP = (
    *(NAME, "tal", "MODEL.FOCAL.ASSIGNER.TAL_WARMUP", 0.5, "SOLVER.MAX_ITER", 4),
    *("MODEL.FOCAL.CLS_LOSS.NAME", "QualityFocalLoss"),
)


def test_tal_begins_with_atss_and_a_target_of_one(batch):
    model = tiny_model(*WARMUP)
    by_atss = Step(tiny_model(NAME, "atss"), batch).targets()
    for iteration in range(4):
        model.eval()
        targets = Step(model, batch).targets()
        assert (iteration < 2) == torch.equal(targets.labels, by_atss.labels)
        if iteration < 2:
            assert torch.equal(targets.quality, (by_atss.labels != NUM_CLASSES).float())
        losses_of(model.train(), batch)


def test_the_step_of_tal_is_in_the_checkpoint(batch, tmp_path):
    trained = tiny_model(*WARMUP)
    for _ in range(3):
        losses_of(trained, batch)
    DetectionCheckpointer(trained, str(tmp_path)).save("model")
    resumed = tiny_model(*WARMUP)
    DetectionCheckpointer(resumed).load(str(tmp_path / "model.pth"))
    assert resumed.assigner.steps == 3
    expected = gradients_of(trained, batch)[1]
    for key, gradient in gradients_of(resumed, batch)[1].items():
        assert torch.equal(gradient, expected[key])


@pytest.mark.parametrize("name", READERS)
def test_labels_alone_need_no_predictions_or_say_so(name, batch):
    step = Step(tiny_model(NAME, name), batch)
    with pytest.raises(ValueError, match="Assigner needs predictions"):
        step.model.label_anchors(step.anchors, step.instances)


@pytest.mark.parametrize("name", READERS)
def test_a_softmax_loss_is_refused(name):
    softmax = ("MODEL.FOCAL.CLS_LOSS.NAME", "SoftmaxFocalLoss")
    with pytest.raises(ValueError, match="reads sigmoid logits, but SoftmaxFocalLoss"):
        tiny_model(NAME, name, *softmax)


def test_the_scores_are_those_of_the_loss(batch):
    """A score of the Gumbel loss is not the sigmoid of its logit."""
    gumbel = ("MODEL.FOCAL.CLS_LOSS.NAME", "GumbelLoss")
    model = random_weights(tiny_model(NAME, "tal", *gumbel), scale=0.2)
    seen = []
    assign = model.assigner.assign
    model.assigner.assign = lambda scene: (seen.append(scene), assign(scene))[1]
    losses_of(model, batch[:1])
    logits = Step(model, batch[:1]).image(0)[0]
    scores = seen[0].logits.sigmoid()
    torch.testing.assert_close(scores, GumbelLoss.sigmoid_logits(logits).sigmoid())
    assert not torch.allclose(scores, logits.sigmoid())


@each(
    ("name", "key", "value"),
    [
        ("atss", "ATSS_K", 0),
        ("atss", "ATSS_PER_ANCHOR", 2),
        ("tal", "TAL_TOPK", 0),
        ("tal", "TAL_ALPHA", -1.0),
        ("tal", "TAL_BETA", -1.0),
        ("tal", "TAL_WARMUP", 1.5),
        ("simota", "SIMOTA_RADIUS", 0.0),
        ("simota", "SIMOTA_TOPK", 0),
        ("simota", "SIMOTA_IOU_WEIGHT", -1.0),
        ("paa", "PAA_TOPK", 0),
        ("paa", "PAA_IOU", 0.0),
    ],
)
def test_an_illegal_option_is_an_error_with_its_key(name, key, value):
    cfg = narrow_cfg("Shapes-Detection/retinanet_small.yaml", NAME, name)
    setattr(cfg.MODEL.FOCAL.ASSIGNER, key, value)
    with pytest.raises(ValueError, match=f"MODEL.FOCAL.ASSIGNER.{key} must be"):
        build_model(cfg)


def test_an_unknown_name_is_an_error_that_lists_all():
    with pytest.raises(KeyError, match="atss, max_iou, paa, simota, tal"):
        tiny_model(NAME, "atsss")


class _FirstAnchor(Assigner):
    """Every object gets the anchor of its own number."""

    @configurable
    def __init__(self):
        super().__init__()

    def assign(self, scene):
        objects = torch.full((len(scene.anchors),), -1)
        objects[: len(scene.gt_boxes)] = torch.arange(len(scene.gt_boxes))
        return objects, None


def test_an_assigner_of_ones_own_needs_one_method(batch):
    model = tiny_model()
    model.assigner = _FirstAnchor()
    targets = Step(model, batch).targets()
    assert (targets.labels != NUM_CLASSES).nonzero().tolist() == [[0, 0], [0, 1], [2, 0]]


def test_a_registered_assigner_has_its_own_key(tmp_path):
    with registrations_kept(tmp_path):

        @ASSIGNER_REGISTRY.register()
        class FirstAnchors(_FirstAnchor):
            config_keys = {"count": "MODEL.FOCAL.ASSIGNER.FIRST_COUNT"}

            @configurable
            def __init__(self, *, count: int = 1):
                super().__init__()
                self.count = count

        cfg = get_cfg()
        assert cfg.MODEL.FOCAL.ASSIGNER.FIRST_COUNT == 1
        cfg.MODEL.FOCAL.ASSIGNER.merge_from_list(["NAME", "FirstAnchors", "FIRST_COUNT", 3])
        assert build_assigner(cfg).count == 3


def test_an_assigner_finds_objects_without_classes():
    boxes = Boxes(torch.tensor([[8.0, 8.0, 24.0, 24.0]]))
    anchors = Boxes(torch.tensor([[8.0, 8.0, 24.0, 25.0], [80.0, 8.0, 90.0, 24.0]]))
    (match,) = ATSSAssigner(k=1).match(
        AnchorGrid([anchors], [8], 1), [Instances((99, 99), gt_boxes=boxes)]
    )
    assert match.labels.tolist() == [1, 0]


BAG = ("MODEL.FOCAL.BAG_LOSS.NAME", "FreeAnchorLoss")


def test_free_anchor_replaces_both_losses(batch):
    model = random_weights(tiny_model(*BAG, "MODEL.FOCAL.BAG_LOSS.BAG_SIZE", 20))
    losses = losses_of(model, batch)
    step = Step(model, batch)
    positive, negative = free_anchor_loss(
        step.logits,
        step.deltas,
        torch.cat(step.levels),
        [x.gt_boxes.tensor for x in step.instances],
        [x.gt_classes for x in step.instances],
        transform=model.box2box_transform,
        bag_size=20,
    )
    assert set(losses) == {"loss_positive_bag", "loss_negative_bag"}
    torch.testing.assert_close(losses["loss_positive_bag"], positive)
    torch.testing.assert_close(losses["loss_negative_bag"], negative)


def test_free_anchor_leaves_crowds_out(batch):
    crowd = Instances((128, 160))
    crowd.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 500.0, 500.0]]))
    crowd.gt_classes = torch.tensor([-1])
    with_crowd = [{**batch[1], "instances": crowd}]
    found = {
        policy: losses_of(tiny_model(*BAG, "MODEL.FOCAL.ANCHOR_LABELS.CROWD", policy), with_crowd)
        for policy in ("background", "ignore")
    }
    assert all(losses["loss_positive_bag"] == 0 for losses in found.values())
    negative = {policy: losses["loss_negative_bag"] for policy, losses in found.items()}
    assert 0 < negative["ignore"] < 0.5 * negative["background"]


@each(
    ("key", "value"),
    [
        ("ASSIGNER.NAME", "atss"),
        ("BALANCE.NAME", "self"),
        ("BOX_LOSS.WEIGHTED_BY", "iou"),
        ("CARL.WEIGHT", 1.0),
        ("HEAD.NAME", "DistributionRetinaNetHead"),
        ("MINING.NAME", "TopKMiner"),
        ("REWEIGHT.NAME", "isr_p"),
    ],
)
def test_a_part_that_needs_labels_is_refused_with_free_anchor(key, value):
    with pytest.raises(ValueError, match=f"MODEL.FOCAL.{key} must have its default"):
        tiny_model(*BAG, f"MODEL.FOCAL.{key}", value)


def test_the_parts_that_free_anchor_replaces_are_named(caplog):
    tiny_model(*BAG)
    assert not caplog.records
    tiny_model(*BAG, "MODEL.FOCAL.CLS_LOSS.NAME", "GHMLoss", "MODEL.FOCAL.NORMALIZER.NAME", "batch")
    cls_loss, normalizer = caplog.messages
    assert cls_loss.startswith("MODEL.FOCAL.CLS_LOSS.NAME = 'GHMLoss' has no effect with")
    assert normalizer.startswith("MODEL.FOCAL.NORMALIZER.NAME = 'batch' has no effect with")


def test_free_anchor_in_half_precision_has_finite_float32_losses(batch):
    model = random_weights(tiny_model(*BAG))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, gradients = gradients_of(model, batch)
    assert all(loss.dtype == torch.float32 and loss > 0 for loss in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_free_anchor_refuses_softmax_logits_and_partly_labeled_images(batch):
    for name in ("SoftmaxFocalLoss", "GumbelLoss"):
        with pytest.raises(ValueError, match=f"FreeAnchorLoss reads sigmoid logits.* {name}"):
            tiny_model(*BAG, "MODEL.FOCAL.CLS_LOSS.NAME", name)
    instances = Instances((128, 160), **batch[0]["instances"].get_fields())
    instances.set(FIELD, [None] * len(instances))
    with pytest.raises(ValueError, match="labeled with every class"):
        losses_of(tiny_model(*BAG), [{**batch[0], "instances": instances}])


@each(
    ("key", "value"),
    [
        ("BAG_SIZE", 0),
        ("IOU_THRESHOLD", 1.0),
        ("ALPHA", 2.0),
        ("GAMMA", -1.0),
        ("BOX_WEIGHT", -1.0),
        ("BOX_BETA", -1.0),
    ],
)
def test_an_illegal_option_of_free_anchor_is_an_error_with_its_key(key, value):
    with pytest.raises(ValueError, match=f"MODEL.FOCAL.BAG_LOSS.{key} must be"):
        tiny_model(*BAG, f"MODEL.FOCAL.BAG_LOSS.{key}", value)


RPN = ("MODEL.DEVICE", "cpu", "MODEL.FOCAL.RPN.ASSIGNER")


@each("matched", ["all", "inside"])
def test_the_rpn_takes_an_assigner_without_predictions(matched, batch):
    opts = (*RPN, "atss", "MODEL.FOCAL.RPN.MATCHED", matched)
    opts += ("MODEL.FOCAL.RPN.MINING.NAME", "all")
    rpn = build_model(
        narrow_cfg("Shapes-Detection/faster_rcnn_small.yaml", *opts)
    ).proposal_generator
    sizes = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)][: len(rpn.in_features)]
    anchors = rpn.anchor_generator([torch.zeros(1, 1, *size) for size in sizes])
    instances = batch[0]["instances"]
    (labels,), (gt_boxes,) = rpn.label_and_sample_anchors(anchors, [instances])
    if matched == "all":
        per_location = rpn.anchor_generator.num_anchors[0]
        levels = [boxes.tensor for boxes in anchors]
        gt = instances.gt_boxes.tensor
        expected = atss_assign(levels, gt, anchors_per_location=per_location)
        assert torch.equal(labels == 1, expected >= 0)
        assert torch.equal(gt_boxes[labels == 1], gt[expected[expected >= 0]])
        assert -1 not in labels
    else:
        x1, y1, x2, y2 = Boxes.cat(anchors).tensor.unbind(dim=1)
        inside = (x1 >= 0) & (y1 >= 0) & (x2 <= 160) & (y2 <= 128)
        assert torch.equal(labels == -1, ~inside)
    assert (labels == 1).any()


@each("assigner", ["max_iou", "atss"])
@each("fields", [("gt_boxes", "gt_classes"), ("gt_boxes",)])
def test_the_rpn_logs_objects_without_an_anchor_before_its_sampling(assigner, fields, batch):
    cfg = narrow_cfg("Shapes-Detection/faster_rcnn_small.yaml", *RPN, assigner)
    rpn = build_model(cfg).proposal_generator
    anchors = rpn.anchor_generator([torch.zeros(1, 1, 8, 8)] * len(rpn.in_features))
    far = Instances((128, 160))
    far.gt_boxes = Boxes(torch.tensor([[1e4, 1e4, 1e4 + 9, 1e4 + 9]]))
    far.gt_classes = torch.tensor([0])
    instances = [batch[0]["instances"], Instances.cat([batch[0]["instances"], far])]
    instances = [
        Instances(x.image_size, **{name: x.get(name) for name in fields}) for x in instances
    ]
    rpn.batch_size_per_image = 1
    with EventStorage() as storage:
        rpn.label_and_sample_anchors(anchors, instances)
        assert storage.latest()["rpn/num_objects_without_anchor"][0] == 0.5


def test_the_rpn_refuses_an_assigner_that_needs_predictions():
    with pytest.raises(ValueError, match=r"MODEL\.FOCAL\.RPN\.ASSIGNER"):
        build_model(narrow_cfg("Shapes-Detection/faster_rcnn_small.yaml", *RPN, "tal"))
