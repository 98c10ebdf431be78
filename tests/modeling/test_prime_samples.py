"""ISR-P and CARL in the detectors: what they add to the losses, and what they leave alone."""

import pytest
import torch

from focal_plugin.losses import (
    SeesawLoss,
    SigmoidFocalLoss,
    SoftmaxCrossEntropyLoss,
    carl_loss,
    elementwise_iou,
    isr_p_weights,
)
from focal_plugin.losses.base import ClassificationLoss
from focal_plugin.modeling import FocalFastRCNNOutputLayers
from focal_plugin.modeling.fast_rcnn import WEIGHTS
from focal_plugin.modeling.prime_samples import CARLTerm, ISRPReweighting, objects_of_batch

from ..each import each
from . import test_fast_rcnn as rois
from .toy import NUM_CLASSES, losses_of, tiny_model, toy_batch
from .toy_rcnn import tiny_rcnn

ISR_P = ("MODEL.FOCAL.REWEIGHT.NAME", "isr_p")
CARL = ("MODEL.FOCAL.CARL.WEIGHT", 3.0)
BATCH = toy_batch()


def inputs_of(model):
    """Return the losses of a step, and the arguments of `dense_losses`."""
    captured = {}
    dense_losses = model.dense_losses

    def spy(*args, **kwargs):
        captured["args"] = args
        return dense_losses(*args, **kwargs)

    model.dense_losses = spy
    return losses_of(model, BATCH), captured["args"]


def rows_of_anchors(model, args):
    """Return logits, labels, objects of the batch, IoU and box loss of each anchor in one list."""
    anchors, logits, targets, deltas = args
    logits, deltas = (
        torch.cat([x.flatten(1, -2) for x in levels], 1) for levels in (logits, deltas)
    )
    anchors = torch.cat([x.tensor for x in anchors])
    objects = [f"{i}-{j}" for i, row in enumerate(targets.objects.tolist()) for j in row]
    numbers = {name: k for k, name in enumerate(dict.fromkeys(objects))}
    gt_boxes, labels = torch.cat(targets.gt_boxes), targets.labels.flatten()
    deltas, anchors = deltas.flatten(0, 1), anchors.repeat(len(BATCH), 1)
    boxes = model.box2box_transform.apply_deltas(deltas.detach(), anchors)
    is_object = (labels >= 0) & (labels < NUM_CLASSES)
    box_loss = torch.zeros(len(labels))
    transform = model.box2box_transform
    target = transform.get_deltas(anchors[is_object], gt_boxes[is_object])
    box_loss[is_object] = model.box_loss.per_box(deltas[is_object], target)
    iou = torch.zeros(len(labels))
    iou[is_object] = elementwise_iou(boxes[is_object], gt_boxes[is_object])
    objects = torch.tensor([numbers[name] for name in objects])
    return logits.flatten(0, 1), labels, objects, iou, box_loss


def assert_same(loss, expected, parameter):
    """Compare gradients too: ISR-P keeps the value of the loss, whatever its weights."""
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(x, parameter, retain_graph=True)[0] for x in (loss, expected)]
    assert gradients[1].any()
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


# --- RetinaNet


@each("normalizer", ["batch", "per_image"])
def test_isr_p_weighs_the_loss_of_each_anchor_of_retinanet(normalizer):
    model = tiny_model(*ISR_P, "MODEL.FOCAL.NORMALIZER.NAME", normalizer)
    losses, args = inputs_of(model)
    logits, labels, objects, iou, _ = rows_of_anchors(model, args)
    per_anchor = model.cls_loss.per_anchor(logits, labels)
    weights = isr_p_weights(labels, objects, iou, per_anchor, num_classes=NUM_CLASSES)
    assert len(weights.unique()) > 3
    images = (weights * per_anchor).view(len(BATCH), -1).sum(1)
    positives = ((labels >= 0) & (labels < NUM_CLASSES)).view(len(BATCH), -1).sum(1).clamp(min=1)
    expected = (images / positives).mean()
    if normalizer == "batch":
        expected = images.sum() / ((labels >= 0) & (labels < NUM_CLASSES)).sum()
    assert_same(losses["loss_cls"], expected, model.head.cls_score.weight)
    plain = losses_of(tiny_model("MODEL.FOCAL.NORMALIZER.NAME", normalizer), BATCH)
    assert torch.equal(losses["loss_box_reg"], plain["loss_box_reg"])


def test_isr_p_keeps_the_value_of_the_loss_and_changes_its_gradient():
    fixed = ("MODEL.FOCAL.NORMALIZER.NAME", "batch")
    both = [tiny_model(*fixed, *opts) for opts in ((), ISR_P)]
    losses = [losses_of(model, BATCH)["loss_cls"] for model in both]
    torch.testing.assert_close(*losses)
    bias = [model.head.cls_score.bias for model in both]
    plain, weighted = (torch.autograd.grad(*pair)[0] for pair in zip(losses, bias, strict=True))
    assert not torch.allclose(plain, weighted, rtol=1e-3)


def test_carl_is_a_loss_of_its_own_beside_those_of_retinanet():
    fixed = ("MODEL.FOCAL.NORMALIZER.NAME", "batch")
    model = tiny_model(*fixed, *CARL)
    losses, args = inputs_of(model)
    logits, labels, _, _, box_loss = rows_of_anchors(model, args)
    positives = ((labels >= 0) & (labels < NUM_CLASSES)).sum()
    expected = 3 * carl_loss(logits, labels, box_loss, avg_factor=positives)
    torch.testing.assert_close(losses["loss_carl"], expected)
    parameters = [model.head.cls_score.weight, model.head.bbox_pred.weight]
    found, wanted = (
        torch.autograd.grad(x, parameters, retain_graph=True)
        for x in (losses["loss_carl"], expected)
    )
    torch.testing.assert_close(found, wanted)
    plain = losses_of(tiny_model(*fixed), BATCH)
    assert all(torch.equal(losses[name], value) for name, value in plain.items())


def test_without_objects_both_are_zero_with_a_graph():
    model = tiny_model(*ISR_P, *CARL)
    losses = losses_of(model, BATCH[1:2])
    assert losses["loss_carl"] == 0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_objects_of_several_images_have_different_numbers():
    objects = torch.tensor([[0, 1, -1], [0, 0, 1], [2, 0, -1]])
    numbers = objects_of_batch(objects)
    named = {}
    for image, (row, found) in enumerate(zip(objects.tolist(), numbers.tolist(), strict=True)):
        for index, number in zip(row, found, strict=True):
            assert named.setdefault(number, (image, index)) == (image, index)
    assert len(named) == 8


# --- box heads


def weighted_layers(cls_loss=None, **options):
    return rois.make(cls_loss=cls_loss or SoftmaxCrossEntropyLoss(), **options)


def test_isr_p_weighs_the_loss_of_each_roi_by_its_object():
    layers = weighted_layers(reweighting=ISRPReweighting(k=1.5, bias=0.1))
    scores, deltas = rois.random_predictions()
    # two images of the same boxes, so that their objects differ by image only
    first, _, last = rois.random_proposals()
    proposals = [first, first, last]
    twice = torch.cat([torch.arange(12), torch.arange(12), torch.arange(12, 21)])
    predictions = scores[twice], deltas[twice]
    labels = rois.LABELS[twice]
    losses, _ = rois.losses_of(layers, predictions, proposals)
    boxes, _, _, gt_boxes = rois.decoded_boxes(deltas.detach())
    iou = torch.zeros(rois.R)
    iou[rois.HAS_OBJECT] = elementwise_iou(boxes, gt_boxes)
    per_roi = SoftmaxCrossEntropyLoss().per_anchor(predictions[0], labels)
    objects = torch.arange(len(twice))  # every RoI has an object of its own
    weights = isr_p_weights(
        labels, objects, iou[twice], per_roi, num_classes=rois.K, k=1.5, bias=0.1
    )
    assert_same(losses["loss_cls"], (weights * per_roi).sum() / len(twice), scores)

    # the RoIs of a class of the first image share a box, and so an object
    shared = first[:]
    for label in range(rois.K):
        same = shared.gt_classes == label
        shared.gt_boxes.tensor[same] = shared.gt_boxes.tensor[same][:1]
        objects[:12][same] = 100 + label
        objects[12:24][same] = 200 + label
    losses, _ = rois.losses_of(layers, predictions, [shared, shared, last])
    quality = layers._quality(
        layers._foreground(
            torch.cat([p.proposal_boxes.tensor for p in [shared, shared, last]]),
            torch.cat([shared.gt_boxes.tensor, shared.gt_boxes.tensor, last.proposal_boxes.tensor]),
            predictions[1],
            labels,
        )
    )
    weights = isr_p_weights(labels, objects, quality, per_roi, num_classes=rois.K, k=1.5, bias=0.1)
    assert_same(losses["loss_cls"], (weights * per_roi).sum() / len(twice), scores)


@each("cls_loss", [SoftmaxCrossEntropyLoss(), SigmoidFocalLoss(), SeesawLoss(num_classes=rois.K)])
def test_carl_of_a_box_head_uses_the_probabilities_of_its_loss(cls_loss):
    layers = weighted_layers(cls_loss, carl=CARLTerm(weight=2.0, k=0.7, bias=0.3))
    predictions = rois.random_predictions(columns=layers.cls_score.out_features)
    losses, _ = rois.losses_of(layers, predictions)
    probs = torch.cat(layers.predict_probs(predictions, rois.random_proposals()))
    p = probs[rois.HAS_OBJECT, rois.LABELS[rois.HAS_OBJECT]]
    _, deltas, boxes, gt_boxes = rois.decoded_boxes(predictions[1])
    errors = layers.box_loss.per_box(deltas, rois.TRANSFORM.get_deltas(boxes, gt_boxes))
    v = (0.3 + 0.7 * p) ** 0.7
    expected = 2 * (len(p) * v / v.sum() * errors).sum() / rois.R
    torch.testing.assert_close(losses["loss_carl"], expected)
    gradients = [rois.gradients_of(x, predictions) for x in (losses["loss_carl"], expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_weights_of_sampled_rois_multiply_their_losses():
    proposals = rois.random_proposals()
    generator = torch.Generator().manual_seed(5)
    weights = torch.rand(rois.R, generator=generator)
    for instances, of_image in zip(proposals, weights.split(rois.SIZES), strict=True):
        instances.set(WEIGHTS, of_image)
    predictions = rois.random_predictions()
    losses, _ = rois.losses_of(weighted_layers(), predictions, proposals)
    per_roi = SoftmaxCrossEntropyLoss().per_anchor(predictions[0], rois.LABELS)
    torch.testing.assert_close(losses["loss_cls"], (weights * per_roi).sum() / rois.R)


def test_weights_do_not_change_when_the_counts_of_the_seesaw_loss_move():
    plain, weighted = (
        weighted_layers(SeesawLoss(num_classes=rois.K), **options)
        for options in ({}, {"reweighting": ISRPReweighting(k=0.0)})
    )
    predictions = rois.random_predictions(columns=rois.K + 2)
    losses = [rois.losses_of(layers.train(), predictions)[0] for layers in (plain, weighted)]
    torch.testing.assert_close(losses[0], losses[1])
    assert torch.equal(plain.cls_loss.counts, weighted.cls_loss.counts)
    assert plain.cls_loss.counts.sum() == rois.R


@pytest.mark.parametrize("name", ["FocalROIHeads", "FocalCascadeROIHeads"])
def test_a_detector_of_two_stages_trains_with_both(name):
    node = "MODEL.FOCAL.ROI_HEADS"
    model = tiny_rcnn(
        *("MODEL.ROI_HEADS.NAME", name, f"{node}.CLS_LOSS.NAME", "SoftmaxCrossEntropyLoss"),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        *(f"{node}.REWEIGHT.NAME", "isr_p", f"{node}.CARL.WEIGHT", 1.0),
    )
    losses = losses_of(model, BATCH)
    assert sum(key.startswith("loss_carl") for key in losses) == (3 if "Cascade" in name else 1)
    assert all(value.isfinite() for value in losses.values())


# --- what does not work together


class SumOnly(ClassificationLoss):
    has_rows = False


class OfBoth(ClassificationLoss):
    needs_box_loss = True


@each(
    ("options", "message"),
    [
        ({"reweighting": ISRPReweighting()}, r"REWEIGHT\.NAME requires a loss in"),
        ({"carl": CARLTerm()}, r"CARL\.WEIGHT requires a loss in"),
        ({"reweighting": ISRPReweighting(), "cls_loss": SumOnly()}, "SumOnly compares all logits"),
        ({"reweighting": ISRPReweighting(), "cls_loss": OfBoth()}, "weighs the boxes itself"),
    ],
)
def test_losses_that_cannot_be_weighted_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rois.make(FocalFastRCNNOutputLayers, **options)


@each(
    ("key", "value"),
    [("REWEIGHT.K", -1.0), ("REWEIGHT.BIAS", 2.0), ("CARL.K", -1.0), ("CARL.WEIGHT", -1.0)],
)
def test_an_illegal_option_names_its_full_key(key, value):
    node = "MODEL.FOCAL.ROI_HEADS."
    on = [node + "REWEIGHT.NAME", "isr_p", node + "CARL.WEIGHT", 1.0]
    with pytest.raises(ValueError, match=rf"^{(node + key).replace('.', '[.]')} must be "):
        rois.make_from_config(*on, node + key, value)
    with pytest.raises(ValueError, match=rf"^MODEL[.]FOCAL[.]{key.replace('.', '[.]')} must be "):
        tiny_model(*ISR_P, *CARL, f"MODEL.FOCAL.{key}", value)
