import json
import math
from pathlib import Path

import pytest
import torch

from focal_plugin.losses import FreeAnchorLoss, free_anchor_loss

from ..each import each

CASE = json.loads((Path(__file__).parent / "free_anchor_case.json").read_text())
"""Inputs and result for a bag of 3 anchors."""


class Transform:
    """Detectron2's conversion of deltas, in the dtype of its input."""

    def __init__(self, weights=(10.0, 10.0, 5.0, 5.0)):
        self.weights = weights

    def get_deltas(self, src_boxes, target_boxes):
        size = src_boxes[:, 2:] - src_boxes[:, :2]
        offset = (
            target_boxes[:, :2] + target_boxes[:, 2:] - src_boxes[:, :2] - src_boxes[:, 2:]
        ) / 2
        scale = ((target_boxes[:, 2:] - target_boxes[:, :2]) / size).log()
        return torch.cat([offset / size, scale], dim=1) * offset.new_tensor(self.weights)

    def apply_deltas(self, deltas, boxes):
        deltas = deltas / deltas.new_tensor(self.weights)
        size = boxes[:, 2:] - boxes[:, :2]
        center = (boxes[:, :2] + boxes[:, 2:]) / 2 + deltas[:, :2] * size
        half = size * deltas[:, 2:].exp() / 2
        return torch.cat([center - half, center + half], dim=1)


def loss_of(logits, deltas, anchors, gt_boxes, gt_classes, **options):
    options = {"transform": Transform(), **options}
    return free_anchor_loss(logits, deltas, anchors, gt_boxes, gt_classes, **options)


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return overlap / (areas - overlap)


def loss_by_loops(logits, deltas, anchors, gt_boxes, gt_classes, *, bag_size, alpha, gamma):
    """Compute both losses from the definition, in float64 with autograd."""
    count = max(sum(map(len, gt_boxes)), 1)
    positive, negative = 0.0, 0.0
    for x, d, boxes, classes in zip(logits, deltas, gt_boxes, gt_classes, strict=True):
        decoded = Transform().apply_deltas(d.detach(), anchors)
        factor = torch.zeros_like(x)
        for box, c in zip(boxes, classes.tolist(), strict=True):
            overlap = [iou(box.tolist(), anchor.tolist()) for anchor in anchors]
            bag = sorted(range(len(anchors)), key=lambda i: (-overlap[i], i))[:bag_size]
            target = Transform().get_deltas(anchors, box.expand_as(anchors))
            error = (d - target).abs()
            smooth = torch.where(error < 0.11, error**2 / 0.22, error - 0.055).sum(dim=1)
            match = x[bag, c].sigmoid() * (-0.75 * smooth[bag]).exp()
            u = 1 / (1 - match)
            positive = positive - ((u * match).sum() / u.sum()).log()
            own = [iou(box.tolist(), other.tolist()) for other in decoded]
            for j, value in enumerate(own):
                if value > 0.6:
                    share = min((value - 0.6) / (max(own) - 0.6), 1.0)
                    factor[j, c] = max(factor[j, c].item(), share)
        z = x.sigmoid() * (1 - factor)
        negative = negative - (z**gamma * torch.log1p(-z)).sum()
    return alpha * positive / count, (1 - alpha) * negative / (bag_size * count)


def random_scene(counts=(3, 0, 2), num_classes=3, dtype=torch.float64):
    """Return two levels of predictions of three images, near the objects."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    corner = rand(30, 2) * 40
    anchors = torch.cat([corner, corner + 8 + rand(30, 2) * 20], dim=1)
    gt_boxes = [anchors[:count] + rand(count, 4) * 2 for count in counts]
    gt_classes = [torch.arange(count) % num_classes for count in counts]
    logits = torch.randn(len(counts), 30, num_classes, generator=generator, dtype=torch.float64)
    deltas = torch.randn(len(counts), 30, 4, generator=generator, dtype=torch.float64) * 0.3
    return (
        [x.to(dtype) for x in logits.split([22, 8], dim=1)],
        [x.to(dtype) for x in deltas.split([22, 8], dim=1)],
        anchors.to(dtype),
        [x.to(dtype) for x in gt_boxes],
        gt_classes,
    )


def with_gradient(logits, deltas, *others):
    leaves = [[x.clone().requires_grad_() for x in levels] for levels in (logits, deltas)]
    return leaves, (*leaves, *others)


@each(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-6)])
def test_value_and_gradients_are_the_known_ones(dtype, tolerance):
    case = {name: torch.tensor(value, dtype=dtype) for name, value in CASE.items()}
    logits = case["logits"].unsqueeze(0).requires_grad_()
    deltas = case["deltas"].unsqueeze(0).requires_grad_()
    objects = ([case["gt_boxes"]], [case["gt_classes"].long()])
    positive, negative = loss_of([logits], [deltas], case["anchors"], *objects, bag_size=3)
    (positive + negative).backward()
    for result, name in [
        (positive, "positive"),
        (negative, "negative"),
        (logits.grad[0], "gradient"),
        (deltas.grad[0], "gradient_wrt_deltas"),
    ]:
        torch.testing.assert_close(result, case[name], rtol=0, atol=tolerance)


@each(("bag_size", "alpha", "gamma"), [(5, 0.5, 2.0), (50, 0.3, 1.0)])
@each(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-6)])
def test_it_is_the_loss_of_loops(bag_size, alpha, gamma, dtype, tolerance):
    options = {"bag_size": bag_size, "alpha": alpha, "gamma": gamma}
    leaves, scene = with_gradient(*random_scene(dtype=dtype))
    losses = loss_of(*scene, **options)
    sum(losses).backward()
    expected_leaves, (logits, deltas, *others) = with_gradient(*random_scene())
    whole = (torch.cat(logits, dim=1), torch.cat(deltas, dim=1), *others)
    expected = loss_by_loops(*whole, **options)
    sum(expected).backward()
    for loss, value in zip(losses, expected, strict=True):
        torch.testing.assert_close(loss.double(), value, rtol=0, atol=tolerance * 5)
    for levels, expected_levels in zip(leaves, expected_leaves, strict=True):
        for x, y in zip(levels, expected_levels, strict=True):
            assert y.grad.any()
            torch.testing.assert_close(x.grad.double(), y.grad, rtol=0, atol=tolerance)


def test_it_reads_the_layout_of_a_convolution():
    logits, deltas, *others = random_scene(dtype=torch.float32)
    images = len(logits[0])

    def as_planes(x, size):
        planes = x.view(images, 2, -1, size).permute(0, 3, 1, 2).contiguous()
        return planes.permute(0, 2, 3, 1).unsqueeze(3)

    moved = [as_planes(x, 3) for x in logits], [as_planes(x, 4) for x in deltas]
    for loss, same in zip(loss_of(*moved, *others), loss_of(logits, deltas, *others), strict=True):
        torch.testing.assert_close(loss, same)


def test_without_objects_every_anchor_is_background_and_the_divisors_are_one():
    leaves, scene = with_gradient(*random_scene(counts=(0, 0)))
    positive, negative = loss_of(*scene, alpha=0.25)
    p = torch.cat(leaves[0], dim=1).sigmoid()
    assert positive == 0
    torch.testing.assert_close(negative, 0.75 * (p**2 * -torch.log1p(-p)).sum())
    (positive + negative).backward()
    assert all(x.grad is not None for levels in leaves for x in levels)


def test_ignored_anchors_are_no_background():
    scene = random_scene(counts=(0,))
    ignored = torch.ones(1, 30, dtype=torch.bool)
    assert loss_of(*scene, ignored=ignored)[1] == 0
    ignored[0, 7] = False
    p = scene[0][0][0, 7].sigmoid()
    negative = loss_of(*scene, ignored=ignored)[1]
    torch.testing.assert_close(negative, 0.5 * (p**2 * -torch.log1p(-p)).sum())


@each("gamma", [0.0, 0.5, 2.0])
@each("dtype", [torch.float64, torch.float32, torch.float16])
@each("extreme", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_value_and_gradient_are_finite_at_extreme_logits(extreme, dtype, gamma):
    logits, deltas, *others = random_scene(dtype=dtype)
    others = [x.float() if isinstance(x, torch.Tensor) else x for x in others]
    others[1] = [x.float() for x in others[1]]
    leaves, scene = with_gradient([x * 0 + extreme for x in logits], deltas, *others)
    losses = loss_of(*scene, gamma=gamma)
    assert all(loss.dtype == torch.promote_types(dtype, torch.float32) for loss in losses)
    sum(losses).backward()
    assert all(math.isfinite(loss.item()) for loss in losses)
    assert all(x.grad.isfinite().all() for levels in leaves for x in levels)


def test_a_perfect_detector_has_no_loss():
    logits, deltas, anchors, _, _ = random_scene(counts=(1,))
    gt_boxes, gt_classes = [anchors[4:5]], [torch.tensor([1])]
    logits = [torch.full_like(x, -40.0) for x in logits]
    logits[0][0, 4, 1] = 40.0
    deltas = [torch.zeros_like(x) for x in deltas]
    losses = loss_of(logits, deltas, anchors, gt_boxes, gt_classes)
    assert all(0 <= loss < 1e-9 for loss in losses)


def test_the_module_is_the_function():
    options = {"bag_size": 7, "iou_threshold": 0.5, "alpha": 0.4, "gamma": 1.5}
    options |= {"box_weight": 0.5, "beta": 0.2}
    scene = random_scene(dtype=torch.float32)
    losses = FreeAnchorLoss(**options)(*scene, transform=Transform())
    positive, negative = loss_of(*scene, **options)
    assert losses == {"loss_positive_bag": positive, "loss_negative_bag": negative}


@each(
    ("option", "value"),
    [
        ("bag_size", 0),
        ("iou_threshold", 1.0),
        ("alpha", 1.5),
        ("gamma", -1.0),
        ("box_weight", -1.0),
        ("beta", -1.0),
    ],
)
def test_an_illegal_option_is_an_error(option, value):
    with pytest.raises(ValueError, match=f"{option} must be"):
        FreeAnchorLoss(**{option: value})
    with pytest.raises(ValueError, match=f"{option} must be"):
        loss_of(*random_scene(), **{option: value})
