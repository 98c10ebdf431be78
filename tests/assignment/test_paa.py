import math

import pytest
import torch

from focal_plugin.assignment import paa_assign
from focal_plugin.ops.box_pairs import box_iou

from ..each import each
from .scenes import anchor_levels, random_objects


def fit(values):
    """Fit two normal distributions to one sample; return log(weight * density) of a value."""
    low, high, count = min(values), max(values), len(values)
    parts = [(0.5, low, 1.0), (0.5, high, 1.0)]
    bound = -math.inf

    def joint(x):
        return [
            math.log(w) - 0.5 * ((x - mean) ** 2 / var + math.log(2 * math.pi * var))
            for w, mean, var in parts
        ]

    for _ in range(100):
        totals = [log_sum(joint(x)) for x in values]
        shares = [[math.exp(y - t) for y in joint(x)] for x, t in zip(values, totals, strict=True)]
        new = []
        for c in (0, 1):
            size = sum(share[c] for share in shares) + 10 * 2**-52
            mean = sum(s[c] * x for s, x in zip(shares, values, strict=True)) / size
            var = sum(s[c] * (x - mean) ** 2 for s, x in zip(shares, values, strict=True)) / size
            new.append((size / count, mean, var + 1e-6))
        parts = new
        previous, bound = bound, sum(totals) / count
        if abs(bound - previous) < 1e-3:
            break
    return joint


def log_sum(values):
    return max(values) + math.log(sum(math.exp(v - max(values)) for v in values))


def best_part(values):
    """Return which of some ascending losses are positive."""
    joint = fit(values)
    better = [i for i, x in enumerate(values) if joint(x)[0] >= joint(x)[1]]
    if not better:
        return list(range(len(values)))
    last = max(better, key=lambda i: (log_sum(joint(values[i])), -i))
    return [i for i in better if i <= last]


def assign_by_loops(levels, gt_boxes, loss, *, topk, iou_threshold):
    """Return the object of each anchor, from the definition."""
    anchors = torch.cat(levels).float()
    # anchors inside of an object have the same IoU but for the rounding
    overlap = box_iou(gt_boxes.float(), anchors.unsqueeze(1)).tolist()
    best = [max(row[g] for row in overlap) for g in range(len(gt_boxes))]
    result, first = [-1] * len(anchors), 0
    candidates = {g: [] for g in range(len(gt_boxes))}
    for level in levels:
        owned = {g: [] for g in range(len(gt_boxes))}
        for i in range(first, first + len(level)):
            rescued = any(v == b > 0 for v, b in zip(overlap[i], best, strict=True))
            if max(overlap[i]) >= iou_threshold or rescued:
                owned[overlap[i].index(max(overlap[i]))].append(i)
        for g, mine in owned.items():
            candidates[g] += sorted(mine, key=lambda i: (loss[i], i))[:topk]
        first += len(level)
    for g, mine in candidates.items():
        mine = sorted(mine, key=lambda i: (loss[i], i))
        for i in best_part([loss[i] for i in mine]) if mine else []:
            result[mine[i]] = g
    return result


def loss_of(values):
    return lambda anchors, objects: values[anchors]


@each(("topk", "iou_threshold"), [(9, 0.1), (2, 0.1), (5, 0.4)])
@each("spread", [0.1, 1.0, 10.0])
def test_is_the_result_of_loops(topk, iou_threshold, spread):
    generator = torch.Generator().manual_seed(topk)
    levels = anchor_levels(ratios=(1.0, 1.5))
    for count in (1, 6):
        gt_boxes = random_objects(generator, count, on_grid=True)
        values = torch.rand(sum(map(len, levels)), generator=generator, dtype=torch.float64)
        values = (values * 20).round() ** 1.37 * spread  # ties, but no symmetric samples
        options = {"topk": topk, "iou_threshold": iou_threshold}
        expected = assign_by_loops(levels, gt_boxes, values.tolist(), **options)
        assert paa_assign(levels, gt_boxes, loss_of(values), **options).tolist() == expected
        assert max(expected) >= 0


def test_two_clear_groups_of_losses_are_separated():
    """The likeliest loss of the lower group is the middle one of five."""
    level = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(9, 1)
    values = torch.tensor([5.0, 0.9, 1.0, 1.1, 5.1, 0.8, 1.2, 4.9, 5.0])
    matched = paa_assign([level], level[:1], loss_of(values))
    assert (matched == 0).nonzero().flatten().tolist() == [1, 2, 5]


def test_a_single_candidate_is_positive():
    levels = [torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])]
    matched = paa_assign(levels, torch.tensor([[0.0, 0.0, 40.0, 40.0]]), loss_of(torch.ones(2)))
    assert matched.tolist() == [0, -1]


def test_all_candidates_are_positive_if_the_better_component_has_none():
    """The component that begins at the maximum is likelier for all of such close losses."""
    level = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(3, 1)
    values = torch.tensor([0.0048, 0.0054, 0.00566], dtype=torch.float64)
    assert best_part(values.tolist()) == [0, 1, 2]
    assert paa_assign([level], level[:1], loss_of(values)).tolist() == [0, 0, 0]


def test_the_loss_is_called_with_pairs_of_anchor_and_object():
    levels = anchor_levels(dtype=torch.float32)
    gt_boxes = torch.tensor([[4.0, 4.0, 20.0, 20.0], [30.0, 30.0, 50.0, 50.0]])
    pairs = []

    def loss(anchors, objects):
        pairs.extend(zip(anchors.tolist(), objects.tolist(), strict=True))
        return torch.zeros(len(anchors))

    matched = paa_assign(levels, gt_boxes, loss)
    assert {g for _, g in pairs} == {0, 1}
    assert {(i, g) for i, g in enumerate(matched.tolist()) if g >= 0} <= set(pairs)


def test_without_objects_anchors_or_overlaps_nothing_is_assigned():
    nothing = torch.zeros(0, 4)
    for levels, gt_boxes in [
        (anchor_levels(), nothing),
        ([nothing], torch.ones(2, 4)),
        ([], torch.ones(2, 4)),
        (anchor_levels(), torch.tensor([[900.0, 900.0, 950.0, 950.0]])),
    ]:
        matched = paa_assign(levels, gt_boxes, loss_of(torch.ones(500)))
        assert matched.shape == (sum(map(len, levels)),)
        assert set(matched.tolist()) <= {-1}


@each(
    ("options", "message"),
    [({"topk": 0}, "topk must"), ({"iou_threshold": 0.0}, "iou_threshold must")],
)
def test_an_illegal_option_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        paa_assign(anchor_levels(), torch.zeros(0, 4), loss_of(torch.ones(500)), **options)
