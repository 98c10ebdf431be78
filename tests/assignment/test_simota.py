import math

import pytest
import torch

from focal_plugin.assignment import simota_assign
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


def random_scene(seed, num_objects, num_classes=3, on_grid=False):
    generator = torch.Generator().manual_seed(seed)
    levels = anchor_levels()
    anchors = torch.cat(levels)
    logits, boxes = random_predictions(generator, anchors, num_classes)
    strides = [torch.full((len(x),), s) for x, s in zip(levels, (8, 16, 32), strict=True)]
    gt_boxes = random_objects(generator, num_objects, on_grid=on_grid)
    gt_classes = torch.randint(num_classes, (num_objects,), generator=generator)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    return logits, boxes, centers, torch.cat(strides), gt_boxes, gt_classes


def assign_by_loops(
    logits, boxes, centers, strides, gt_boxes, gt_classes, *, center_radius, candidate_topk,
    iou_weight,
):  # fmt: skip
    """Return the object of each anchor, from the definition."""
    objects = list(zip(gt_boxes.tolist(), gt_classes.tolist(), strict=True))
    near, inside, cost, overlap = {}, {}, {}, {}
    for i, (x, y) in enumerate(centers.tolist()):
        for g, (box, label) in enumerate(objects):
            distance = max(abs(x - center(box)[0]), abs(y - center(box)[1]))
            near[i, g] = distance < center_radius * strides[i].item()
            inside[i, g] = depth((x, y), box) > 0
            overlap[i, g] = iou(box, boxes[i].tolist())
            scores = [math.sqrt(probability(logit)) for logit in logits[i].tolist()]
            cost[i, g] = -sum(
                math.log(q if k == label else 1 - q) for k, q in enumerate(scores)
            ) - iou_weight * math.log(overlap[i, g] + 1e-7)
            if not (near[i, g] and inside[i, g]):
                cost[i, g] += 1e5
    numbers = range(len(objects))
    candidates = [i for i in range(len(logits)) if any(near[i, g] or inside[i, g] for g in numbers)]
    choices = {i: [] for i in candidates}
    for g in numbers:
        largest = sorted((overlap[i, g] for i in candidates), reverse=True)[:candidate_topk]
        number = max(1, math.floor(sum(largest)))
        for i in sorted(candidates, key=lambda i, g=g: (cost[i, g], i))[:number]:
            choices[i].append(g)
    owner = [-1] * len(logits)
    for i, chosen in choices.items():
        if chosen:
            among = chosen if len(chosen) == 1 else numbers
            owner[i] = min(among, key=lambda g, i=i: (cost[i, g], g))
    return owner


OPTIONS = {"center_radius": 2.5, "candidate_topk": 10, "iou_weight": 3.0}


@each("dtype", [torch.float64, torch.float32])
@each("case", CASES["simota"])
def test_gives_the_known_result(case, dtype):
    inputs = {name: torch.tensor(value, dtype=dtype) for name, value in case["inputs"].items()}
    names = ("logits", "decoded_boxes", "centers", "strides", "gt_boxes")
    matched = simota_assign(*(inputs[name] for name in names), inputs["gt_classes"].long())
    assert matched.dtype == torch.int64
    assert matched.tolist() == case["expected"]["matched"]


@each(
    "changed",
    [{}, {"center_radius": 0.5}, {"candidate_topk": 3}, {"candidate_topk": 90, "iou_weight": 0.0}],
)
@each(("num_objects", "num_classes"), [(1, 1), (8, 3)])
def test_is_the_result_of_loops(changed, num_objects, num_classes):
    options = OPTIONS | changed
    for seed, on_grid in [(0, False), (1, True)]:
        scene = random_scene(seed, num_objects, num_classes, on_grid)
        assert simota_assign(*scene, **options).tolist() == assign_by_loops(*scene, **options)


def test_an_anchor_can_go_to_an_object_that_did_not_choose_it():
    """Two objects choose one anchor. A third one chooses another, but this one costs it less."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.5]])
    logits = torch.tensor([[4.0, 0.0], [-4.0, 0.0]])
    gt_boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.5, 9.0], [0.0, 0.0, 10.0, 12.0]])
    scene = (logits, boxes, boxes.new_full((2, 2), 4.0), boxes.new_full((2,), 8.0), gt_boxes)
    classes = torch.tensor([0, 0, 0])
    expected = assign_by_loops(*scene, classes, **(OPTIONS | {"candidate_topk": 1}))
    assert simota_assign(*scene, classes, candidate_topk=1).tolist() == expected


def test_the_result_does_not_depend_on_the_size_of_a_chunk(monkeypatch):
    scene = random_scene(3, 20, on_grid=True)
    expected = simota_assign(*scene)
    assert len(expected.unique()) > 5
    monkeypatch.setattr(box_pairs, "PAIRS_PER_CHUNK", 100)
    assert torch.equal(simota_assign(*scene), expected)


@pytest.mark.parametrize("pairs", [1, 1 << 20])
def test_the_first_of_two_equal_objects_gets_the_anchors(pairs, monkeypatch):
    """It does so in one chunk, and in two."""
    *scene, gt_boxes, gt_classes = random_scene(0, 1)
    monkeypatch.setattr(box_pairs, "PAIRS_PER_CHUNK", pairs)
    matched = simota_assign(*scene, gt_boxes.repeat(2, 1), gt_classes.repeat(2))
    assert set(matched.tolist()) == {-1, 0}


def test_extreme_logits_have_a_finite_cost():
    logits, *others = random_scene(4, 5)
    matched = simota_assign(logits.sign() * 1e4, *others)
    assert (matched >= 0).any()


def test_half_logits_are_computed_in_float32():
    logits, boxes, centers, strides, gt_boxes, gt_classes = random_scene(5, 8)
    others = (boxes.float(), centers.float(), strides, gt_boxes.float(), gt_classes)
    expected = simota_assign(logits.half().float(), *others)
    assert torch.equal(simota_assign(logits.half(), *others), expected)


def test_nothing_is_assigned_without_objects_anchors_or_candidates():
    logits, boxes, centers, strides, gt_boxes, gt_classes = random_scene(6, 2)
    predictions = (logits, boxes, centers, strides)
    assert simota_assign(*predictions, gt_boxes[:0], gt_classes[:0]).unique().tolist() == [-1]
    assert simota_assign(*predictions, gt_boxes + 1e4, gt_classes).unique().tolist() == [-1]
    empty = simota_assign(*(x[:0] for x in predictions), gt_boxes, gt_classes)
    assert empty.shape == (0,)


@each(
    ("options", "message"),
    [
        ({"center_radius": 0.0}, "center_radius must"),
        ({"candidate_topk": 0}, "candidate_topk must"),
        ({"iou_weight": -1.0}, "iou_weight must"),
    ],
)
def test_an_illegal_option_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        simota_assign(*random_scene(0, 1), **options)


def test_wrong_shapes_are_errors():
    logits, boxes, centers, strides, *objects = random_scene(0, 1)
    for scene in [(centers[1:], strides), (centers, strides[1:])]:
        with pytest.raises(ValueError, match="centers and strides must be"):
            simota_assign(logits, boxes, *scene, *objects)
