import pytest
import torch

from focal_plugin.assignment import tal_assign
from focal_plugin.ops import box_pairs

from ..each import each
from .scenes import (
    CASES,
    anchor_levels,
    center,
    depth,
    iou,
    probability,
    random_objects,
    random_predictions,
)


def assign_by_loops(logits, boxes, anchors, gt_boxes, gt_classes, *, topk, alpha, beta):
    """Return the object and the target of each anchor, from the definition."""
    logits, boxes, anchors = logits.tolist(), boxes.tolist(), anchors.tolist()
    owner, best, metric = [-1] * len(boxes), [-1.0] * len(boxes), {}
    for g, (box, label) in enumerate(zip(gt_boxes.tolist(), gt_classes.tolist(), strict=True)):
        ious = [iou(box, decoded) for decoded in boxes]
        for i, overlap in enumerate(ious):
            metric[i, g] = probability(logits[i][label]) ** alpha * overlap**beta
        for i in sorted(range(len(boxes)), key=lambda i, g=g: (-metric[i, g], i))[:topk]:
            inside = depth(center(anchors[i]), box) > 0.01
            if metric[i, g] > 0 and inside and ious[i] > best[i]:
                owner[i], best[i] = g, ious[i]
    target = [0.0] * len(boxes)
    for g in range(len(gt_boxes)):
        own = [i for i in range(len(boxes)) if owner[i] == g]
        for i in own:
            most = max(metric[j, g] for j in own)
            target[i] = metric[i, g] / (most + 1e-7) * max(best[j] for j in own)
    return owner, target


@each("dtype", [torch.float64, torch.float32])
@each("case", CASES["tal"])
def test_gives_the_known_result(case, dtype):
    inputs = {name: torch.tensor(value, dtype=dtype) for name, value in case["inputs"].items()}
    classes = inputs.pop("gt_classes").long()
    matched, target = tal_assign(
        inputs["logits"], inputs["decoded_boxes"], inputs["anchors"], inputs["gt_boxes"], classes
    )
    assert matched.tolist() == case["expected"]["matched"]
    expected = torch.tensor(case["expected"]["target"], dtype=dtype)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(target, expected, rtol=0, atol=tolerance)


@each(("topk", "alpha", "beta"), [(13, 1.0, 6.0), (1, 0.5, 2.0), (200, 0.0, 1.0)])
@each("num_classes", [1, 3])
def test_is_the_result_of_loops(topk, alpha, beta, num_classes):
    generator = torch.Generator().manual_seed(topk)
    anchors = torch.cat(anchor_levels())
    options = {"topk": topk, "alpha": alpha, "beta": beta}
    for count in (1, 6):
        logits, boxes = random_predictions(generator, anchors, num_classes)
        gt_boxes = random_objects(generator, count, on_grid=True)
        gt_classes = torch.randint(num_classes, (count,), generator=generator)
        scene = (logits, boxes, anchors, gt_boxes, gt_classes)
        expected, expected_target = assign_by_loops(*scene, **options)
        matched, target = tal_assign(*scene, **options)
        assert matched.tolist() == expected
        torch.testing.assert_close(target.tolist(), expected_target, rtol=0, atol=1e-12)


def random_scene(num_objects=20, num_classes=4):
    generator = torch.Generator().manual_seed(2)
    anchors = torch.cat(anchor_levels())
    logits, boxes = random_predictions(generator, anchors, num_classes)
    gt_classes = torch.randint(num_classes, (num_objects,), generator=generator)
    return logits, boxes, anchors, random_objects(generator, num_objects), gt_classes


def test_the_result_does_not_depend_on_the_size_of_a_chunk(monkeypatch):
    expected = tal_assign(*random_scene())
    monkeypatch.setattr(box_pairs, "PAIRS_PER_CHUNK", 200)
    for result, same in zip(tal_assign(*random_scene()), expected, strict=True):
        assert torch.equal(result, same)


def test_equal_metrics_are_taken_in_the_order_of_the_anchors():
    logits, boxes = torch.zeros(30, 1), torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(30, 1)
    matched, target = tal_assign(logits, boxes, boxes, boxes[:1], torch.zeros(1).long())
    assert matched.tolist() == [0] * 13 + [-1] * 17
    torch.testing.assert_close(target[:13], torch.ones(13), rtol=0, atol=1e-6)


def test_an_anchor_of_two_objects_goes_to_the_larger_iou_and_not_the_larger_metric():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    gt_boxes = torch.tensor([[0.0, 0.0, 10.0, 11.0], [0.0, 0.0, 10.0, 10.5]])
    logits = torch.tensor([[5.0, -5.0]])
    matched, _ = tal_assign(logits, boxes, boxes, gt_boxes, torch.tensor([0, 1]))
    assert matched.tolist() == [1]


def test_an_anchor_whose_box_misses_the_object_is_no_positive():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    logits, gt_classes = torch.zeros(1, 1), torch.zeros(1).long()
    for offset, expected in [(0.0, 0), (20.0, -1)]:
        matched, _ = tal_assign(logits, anchors + offset, anchors, anchors, gt_classes)
        assert matched.tolist() == [expected]


def test_half_logits_are_computed_in_float32():
    logits, boxes, anchors, *objects = random_scene()
    scene = (boxes.float(), anchors.float(), objects[0].float(), objects[1])
    matched, target = tal_assign(logits.half(), *scene)
    assert target.dtype == torch.float32
    expected = tal_assign(logits.half().float(), *scene)
    assert torch.equal(matched, expected[0])
    assert torch.equal(target, expected[1])
    assert (target > 0).sum() == (matched >= 0).sum()


def test_without_objects_or_anchors_nothing_is_assigned():
    logits, boxes, anchors, gt_boxes, gt_classes = random_scene()
    matched, target = tal_assign(logits, boxes, anchors, gt_boxes[:0], gt_classes[:0])
    assert matched.unique().tolist() == [-1]
    assert not target.any()
    matched, target = tal_assign(logits[:0], boxes[:0], anchors[:0], gt_boxes, gt_classes)
    assert matched.shape == target.shape == (0,)


@each(
    ("options", "message"),
    [({"topk": 0}, "topk must"), ({"alpha": -1.0}, "alpha must"), ({"beta": -1.0}, "beta must")],
)
def test_an_illegal_option_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        tal_assign(*random_scene(), **options)


def test_wrong_shapes_and_classes_are_errors():
    logits, boxes, anchors, gt_boxes, gt_classes = random_scene()
    for scene, message in [
        ((logits[0], boxes, anchors, gt_boxes, gt_classes), "logits must be"),
        ((logits, boxes[1:], anchors, gt_boxes, gt_classes), "boxes must be"),
        ((logits, boxes, anchors[1:], gt_boxes, gt_classes), "anchors must be"),
        ((logits, boxes, anchors, gt_boxes, gt_classes[1:]), "gt_classes must be"),
        ((logits, boxes, anchors, gt_boxes, gt_classes + 9), r"gt_classes must be in 0..3, got 9"),
    ]:
        with pytest.raises(ValueError, match=message):
            tal_assign(*scene)
