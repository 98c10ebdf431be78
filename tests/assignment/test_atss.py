import statistics

import pytest
import torch

from focal_plugin.assignment import atss_assign
from focal_plugin.ops import box_pairs

from ..each import each
from .scenes import CASES, anchor_levels, center, depth, iou, random_objects


def assign_by_loops(levels, gt_boxes, *, k, anchors_per_location):
    """Return the object of each anchor, from the definition."""
    anchors = [box for level in levels for box in level.tolist()]
    count = k * (anchors_per_location or 1)
    owner, best = [-1] * len(anchors), [-1.0] * len(anchors)
    for g, box in enumerate(gt_boxes.tolist()):
        (x, y), candidates, first = center(box), [], 0
        for level in levels:
            points = [center(anchor) for anchor in level.tolist()]
            order = sorted(
                range(len(points)),
                key=lambda i: (((points[i][0] - x) ** 2 + (points[i][1] - y) ** 2) ** 0.5, i),
            )
            candidates += [first + i for i in order[:count]]
            first += len(level)
        ious = [iou(box, anchors[i]) for i in candidates]
        spread = statistics.stdev(ious) if len(ious) > 1 else 0.0
        for i, overlap in zip(candidates, ious, strict=True):
            is_positive = overlap >= statistics.fmean(ious) + spread
            if is_positive and depth(center(anchors[i]), box) > 0.01 and overlap > best[i]:
                owner[i], best[i] = g, overlap
    return owner


@each("dtype", [torch.float64, torch.float32])
@each("case", CASES["atss"])
def test_gives_the_known_result(case, dtype):
    inputs, options = case["inputs"], case["options"]
    levels = [torch.tensor(level, dtype=dtype) for level in inputs["levels"]]
    scaled = options.get("scale_k", True)
    matched = atss_assign(
        levels,
        torch.tensor(inputs["gt_boxes"], dtype=dtype),
        k=options["k"],
        anchors_per_location=options["anchors_per_location"] if scaled else None,
    )
    assert matched.dtype == torch.int64
    assert matched.tolist() == case["expected"]["matched"]


@each("on_grid", [False, True])
@each(("k", "anchors_per_location"), [(9, 1), (3, 2), (5, None), (1, 1), (50, 3)])
def test_is_the_result_of_loops(k, anchors_per_location, on_grid):
    generator = torch.Generator().manual_seed(k)
    for ratios in [(1.0,), (1.0, 2.0)]:
        levels = anchor_levels(ratios=ratios)
        for count in (1, 7):
            gt_boxes = random_objects(generator, count, on_grid=on_grid)
            options = {"k": k, "anchors_per_location": anchors_per_location}
            expected = assign_by_loops(levels, gt_boxes, **options)
            assert atss_assign(levels, gt_boxes, **options).tolist() == expected


def test_the_result_does_not_depend_on_the_size_of_a_chunk(monkeypatch):
    levels = anchor_levels()
    gt_boxes = random_objects(torch.Generator().manual_seed(1), 20, on_grid=True)
    expected = atss_assign(levels, gt_boxes)
    assert len(expected.unique()) > 10
    monkeypatch.setattr(box_pairs, "PAIRS_PER_CHUNK", 150)
    assert torch.equal(atss_assign(levels, gt_boxes), expected)


@pytest.mark.parametrize("pairs", [1, 1 << 20])
def test_the_first_of_two_equal_objects_gets_the_anchors(pairs, monkeypatch):
    """It does so in one chunk, and in two."""
    monkeypatch.setattr(box_pairs, "PAIRS_PER_CHUNK", pairs)
    gt_boxes = torch.tensor([[10.0, 10.0, 40.0, 40.0]], dtype=torch.float64).repeat(2, 1)
    assert set(atss_assign(anchor_levels(), gt_boxes).tolist()) == {-1, 0}


def test_half_precision_is_compared_in_float32():
    levels = [level.half() for level in anchor_levels()]
    gt_boxes = random_objects(torch.Generator().manual_seed(0), 5).half()
    expected = atss_assign([level.float() for level in levels], gt_boxes.float())
    assert torch.equal(atss_assign(levels, gt_boxes), expected)


def test_without_objects_or_anchors_nothing_is_assigned():
    levels, nothing = anchor_levels(), torch.zeros(0, 4)
    assert atss_assign(levels, nothing).unique().tolist() == [-1]
    assert atss_assign([nothing, nothing], torch.ones(2, 4)).shape == (0,)
    assert atss_assign([], torch.ones(2, 4)).shape == (0,)
    single = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    assert atss_assign([single], torch.tensor([[1.0, 1.0, 9.0, 9.0]])).tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"k": 0}, "k must be"), ({"anchors_per_location": 0}, "anchors_per_location must be")],
)
def test_an_illegal_option_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        atss_assign(anchor_levels(), torch.zeros(0, 4), **options)


def test_a_wrong_shape_is_an_error():
    with pytest.raises(ValueError, match=r"gt_boxes must be \(.., 4\), got \(3,\)"):
        atss_assign(anchor_levels(), torch.zeros(3))
    with pytest.raises(ValueError, match="anchors must be"):
        atss_assign([torch.zeros(3, 5)], torch.zeros(0, 4))
