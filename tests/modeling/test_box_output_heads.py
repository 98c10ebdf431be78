"""Heads that predict more of a box than its four deltas."""

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransformLinear
from detectron2.utils.events import EventStorage

from focal_plugin.losses.distribution_focal import distribution_focal_loss
from focal_plugin.modeling.box_output_heads import (
    BoxOutputs,
    centerness_of,
    logit_of_geometric_mean,
)
from focal_plugin.modeling.distance_transform import DistanceTransform

from ..each import each
from .toy import tiny_model, toy_batch

NAME = "MODEL.FOCAL.HEAD.NAME"
HEADS = {"DistributionRetinaNetHead": "loss_dfl", "CenternessRetinaNetHead": "loss_centerness"}


def losses_of(model):
    with EventStorage():
        return model(toy_batch())


@each("head", HEADS)
def test_a_detector_trains_all_of_the_head_and_then_detects(head):
    model = tiny_model(NAME, head)
    losses = losses_of(model)
    assert set(losses) == {"loss_cls", "loss_box_reg", HEADS[head]}
    sum(losses.values()).backward()
    untrained = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert untrained == []
    with torch.no_grad():
        (found, *_) = model.eval()(toy_batch())
    assert torch.isfinite(found["instances"].pred_boxes.tensor).all()


@each("head", HEADS)
def test_a_batch_without_objects_has_losses_of_zero(head):
    model = tiny_model(NAME, head)
    batch = toy_batch()[1:2]
    with EventStorage():
        losses = model(batch)
    assert losses[HEADS[head]] == 0
    sum(losses.values()).backward()


@each("head", HEADS)
def test_deltas_of_training_are_the_outputs_of_evaluation(head):
    model = tiny_model(NAME, head)
    features = [torch.randn(2, 32, size, size) for size in (8, 4, 2)]
    with torch.no_grad():
        _, outputs = model.head(features)
        _, expected = model.head.eval()(features)
    channels = model.head.box_channels
    for raw, deltas in zip(outputs, expected, strict=True):
        num_images, _, height, width = raw.shape
        rows = raw.view(num_images, -1, channels, height, width).movedim(2, -1)
        found = model.head.deltas_of(rows).movedim(-1, 2).flatten(1, 2)
        torch.testing.assert_close(found, deltas)


def test_a_distance_is_in_strides_for_anchors_of_eight_strides():
    model = tiny_model(NAME, "DistributionRetinaNetHead")
    anchor = torch.tensor([[0.0, 0.0, 64.0, 64.0]])  # of stride 8
    box = torch.tensor([[16.0, 24.0, 48.0, 40.0]])  # 2, 1, 2 and 1 strides around the center
    logits = torch.full((1, 4, 17), -50.0)
    for side, distance in enumerate([2, 1, 2, 1]):
        logits[0, side, distance] = 50
    deltas = model.head.deltas_of(logits.flatten(1))
    torch.testing.assert_close(model.box2box_transform.apply_deltas(deltas, anchor), box)


def test_distances_are_those_of_detectron2s_linear_transform():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(20, 2, 2, generator=generator) * 50
    anchors, gt_boxes = (torch.cat([x, x + 20], dim=1) for x in corners.unbind(1))
    stock, ours = Box2BoxTransformLinear(normalize_by_size=True), DistanceTransform()
    deltas = ours.get_deltas(anchors, gt_boxes)
    torch.testing.assert_close(deltas, stock.get_deltas(anchors, gt_boxes))
    expected = stock.apply_deltas(deltas, anchors)
    torch.testing.assert_close(ours.apply_deltas(deltas, anchors), expected)


def test_the_distribution_loss_is_a_weighted_mean_over_boxes_of_the_mean_over_sides():
    head = tiny_model(NAME, "DistributionRetinaNetHead", "MODEL.FOCAL.HEAD.DFL_WEIGHT", 0.5).head
    outputs = torch.randn(2, 4 * 17)
    anchors = torch.tensor([[0.0, 0.0, 64.0, 64.0]]).repeat(2, 1)
    gt_boxes = torch.tensor([[16.0, 24.0, 48.0, 40.0], [30.0, 30.0, 50.0, 60.0]])
    weights, divisors = torch.tensor([0.25, 1.0]), torch.tensor([3.0, 3.0])
    boxes = BoxOutputs(outputs, anchors, gt_boxes, weights, divisors)
    target = torch.tensor([[2.0, 1.0, 2.0, 1.0], [0.25, 0.25, 2.25, 3.5]])
    per_side = distribution_focal_loss(outputs.view(2, 4, 17), target)
    expected = 0.5 * (weights * per_side.mean(dim=1)).sum() / 3
    torch.testing.assert_close(head.auxiliary_losses(boxes)["loss_dfl"], expected)


def test_centerness_is_one_in_the_center_and_zero_outside():
    gt_boxes = torch.tensor([[0.0, 0.0, 40.0, 20.0]]).repeat(3, 1)
    centers = torch.tensor([[20.0, 10.0], [10.0, 5.0], [50.0, 10.0]])
    anchors = torch.cat([centers - 3, centers + 3], dim=1)
    found = centerness_of(anchors, gt_boxes).tolist()
    assert found == pytest.approx([1.0, ((10 / 30) * (5 / 15)) ** 0.5, 0.0])


def test_the_score_is_the_geometric_mean():
    first, second = torch.randn(50) * 4, torch.randn(50) * 4
    expected = (first.sigmoid() * second.sigmoid()).sqrt()
    torch.testing.assert_close(logit_of_geometric_mean(first, second).sigmoid(), expected)
    assert torch.isfinite(logit_of_geometric_mean(torch.tensor(60.0), torch.tensor(60.0)))


def test_weights_by_centerness_do_not_change_a_mean_of_equal_losses():
    model = tiny_model("MODEL.FOCAL.BOX_LOSS.WEIGHTED_BY", "centerness")
    model.box_loss.per_box = lambda pred, target: pred.new_full((len(pred),), 0.25)
    assert losses_of(model)["loss_box_reg"].item() == pytest.approx(0.25)
