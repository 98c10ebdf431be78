"""Greedy suppression, against a loop over pairs of boxes and against torchvision's nms."""

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, nms

from focal_plugin.ops.extension import has_extension
from focal_plugin.ops.suppression import _choose, suppress

from ..each import each

NAN, INF = float("nan"), float("inf")

needs_extension = pytest.mark.skipif(not has_extension(), reason="the C++ extension is not built")
every_impl = pytest.mark.parametrize("impl", [pytest.param("cpp", marks=needs_extension), "eager"])
THRESHOLDS = (0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.95, 1)


def boxes_of(generator, shape, *, extent=60, smallest=4, largest=40):
    """Return boxes with sides of all sizes, log-uniform, and centers at random."""
    center = torch.rand(*shape, 2, generator=generator) * extent - extent / 3
    side = smallest * (largest / smallest) ** torch.rand(*shape, 2, generator=generator)
    return torch.cat([center - side / 2, center + side / 2], dim=-1)


def integer_boxes(generator, shape):
    """Return boxes with few coordinates: IoUs of exactly 1/2 and equal boxes are common."""
    corner = torch.randint(0, 5, (*shape, 2), generator=generator)
    size = torch.randint(1, 5, (*shape, 2), generator=generator)
    return torch.cat([corner, corner + size], dim=-1).float()


def with_values(generator, boxes, values):
    for value in values:
        at = torch.randint(0, boxes.numel(), (boxes.numel() // 20,), generator=generator)
        boxes.view(-1)[at] = value
    return boxes


def without_area(generator, boxes):
    boxes[..., ::3, 2] = boxes[..., ::3, 0]  # no width
    boxes[..., ::5, 2:] = boxes[..., ::5, :2]  # points
    boxes[..., 1::4, :] = boxes[..., 1::4, [2, 1, 0, 3]]  # swapped corners
    boxes[..., 1::8, :] = boxes[..., 1::8, [0, 3, 2, 1]]
    boxes[..., 10:20, :] = boxes[..., :10, :]
    return boxes


CASES = {
    "random": boxes_of,
    "integers": integer_boxes,
    "of all sizes": lambda g, shape: boxes_of(g, shape, smallest=0.1, largest=1000),
    "small, far apart": lambda g, shape: boxes_of(g, shape, extent=1000),
    "thin": lambda g, shape: boxes_of(g, shape) * torch.tensor([1.0, 1e-4, 1.0, 1e-4]),
    "very thin": lambda g, shape: boxes_of(g, shape) * torch.tensor([1.0, 1e-9, 1.0, 1e-9]),
    "far from 0": lambda g, shape: integer_boxes(g, shape) + 2.0**23,
    "tiny": lambda g, shape: 1e-22 * integer_boxes(g, shape),
    "huge": lambda g, shape: 3.5e18 * integer_boxes(g, shape),
    "without area": lambda g, shape: without_area(g, boxes_of(g, shape)),
    "NaN": lambda g, shape: with_values(g, integer_boxes(g, shape), [NAN]),
    "infinite": lambda g, shape: with_values(g, integer_boxes(g, shape), [INF, -INF]),
}


def case(name, shape):
    """Return boxes, groups and competing."""
    generator = torch.Generator().manual_seed(sorted(CASES).index(name))
    boxes = CASES[name](generator, shape)
    groups = torch.randint(-1, 2, shape, generator=generator)
    return boxes, groups, torch.rand(shape, generator=generator) > 0.1


def expected_of(boxes, groups, competing, threshold):
    """Return the survivors of one list, pair by pair, in float32 as torchvision computes."""
    survivors = []
    with np.errstate(all="ignore"):
        x1, y1, x2, y2 = (column.numpy() for column in boxes.unbind(dim=1))
        area = (x2 - x1) * (y2 - y1)
        for i in competing.nonzero().flatten().tolist():
            rivals = [j for j in survivors if groups[j] == groups[i]]
            width = np.fmin(x2[i], x2[rivals]) - np.fmax(x1[i], x1[rivals])
            height = np.fmin(y2[i], y2[rivals]) - np.fmax(y1[i], y1[rivals])
            overlap = np.fmax(width, np.float32(0)) * np.fmax(height, np.float32(0))
            iou = overlap / (area[i] + area[rivals] - overlap)
            if not (iou.astype(np.float64) > threshold).any():
                survivors.append(i)
    mask = torch.zeros_like(competing)
    mask[survivors] = True
    return mask


@every_impl
@each("threshold", [0, 0.5, 0.7])
@each("name", sorted(CASES))
def test_the_survivors_are_those_of_a_loop_over_pairs(name, threshold, impl):
    given = case(name, (2, 45))
    survivors = suppress(*given, threshold=threshold, impl=impl)
    expected = [expected_of(*of_list, threshold) for of_list in zip(*given, strict=True)]
    assert torch.equal(survivors, torch.stack(expected))


@needs_extension
@each("threshold", THRESHOLDS)
@each("name", sorted(CASES))
def test_cpp_finds_every_pair_that_torchvision_compares(name, threshold):
    """The lists are long enough for the grid."""
    boxes, _, competing = case(name, (1, 1200))
    groups = torch.zeros_like(competing, dtype=torch.int64)
    place = competing[0].nonzero().flatten()
    kept = nms(boxes[0, place], torch.arange(len(place), 0, -1.0), threshold)
    expected = torch.zeros_like(competing)
    expected[0, place[kept]] = True
    assert torch.equal(
        suppress(boxes, groups, competing, threshold=threshold, impl="cpp"), expected
    )


@needs_extension
@each("threshold", THRESHOLDS[:-1])
def test_a_pair_just_above_the_threshold_is_found_wherever_it_is(threshold):
    """The second box of each pair differs from the first in its side, or in its place."""
    generator = torch.Generator().manual_seed(0)
    first = boxes_of(generator, (1, 400), extent=500)
    x1, y1, x2, y2 = first.unbind(dim=-1)
    width = x2 - x1
    share = max(threshold, 0.02) * (1 + 1e-4)
    moves = [
        torch.stack([x1, y1, x1 + share * width, y2], dim=-1),  # a part
        torch.stack([x1, y1, x1 + width / share, y2], dim=-1),  # a whole
        torch.stack([x1, y1, x2, y2], dim=-1)  # as large, and shifted
        + torch.tensor([1.0, 0, 1, 0]) * ((1 - share) / (1 + share) * width).unsqueeze(-1),
    ]
    for second in moves:
        boxes = torch.cat([first, second], dim=1)
        pair = torch.arange(400).repeat(2).unsqueeze(0)
        survivors = suppress(
            boxes, pair, torch.ones_like(pair, dtype=torch.bool), threshold=threshold, impl="cpp"
        )
        assert survivors[0, :400].all()
        assert not survivors[0, 400:].any()


@every_impl
def test_a_longer_list_continues_a_shorter_one(impl):
    boxes, groups, competing = case("random", (3, 200))
    whole = suppress(boxes, groups, competing, threshold=0.3, impl=impl)
    head = suppress(boxes[:, :90], groups[:, :90], competing[:, :90], threshold=0.3, impl=impl)
    assert torch.equal(head, whole[:, :90])
    rest = torch.cat([head, competing[:, 90:]], dim=1)
    assert torch.equal(suppress(boxes, groups, rest, threshold=0.3, impl=impl), whole)


@every_impl
def test_groups_stay_apart_at_negative_coordinates(impl):
    """torchvision shifts each group by the largest coordinate, so that these two boxes overlap."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [-11.0, -11.0, -1.0, -1.0]])
    groups = torch.tensor([0, 1])
    naive = batched_nms(boxes, torch.tensor([2.0, 1.0]), groups, 0.5)
    assert len(naive) == 1, "torchvision has fixed its shift"
    given = boxes.unsqueeze(0), groups.unsqueeze(0), torch.ones(1, 2, dtype=torch.bool)
    assert suppress(*given, threshold=0.5, impl=impl).all()


@every_impl
def test_one_box_suppresses_all_others(impl):
    boxes = torch.tensor([0.0, 0.0, 9.0, 9.0]).expand(2, 300, 4)
    groups = torch.zeros(2, 300, dtype=torch.int64)
    survivors = suppress(boxes, groups, groups == 0, threshold=0.5, impl=impl)
    assert survivors.nonzero().tolist() == [[0, 0], [1, 0]]


@every_impl
@each("shape", [(0, 5), (4, 0), (0, 0)])
def test_no_list_and_no_box_give_no_survivor(shape, impl):
    groups = torch.zeros(shape, dtype=torch.int64)
    survivors = suppress(torch.zeros(*shape, 4), groups, groups == 0, threshold=0.5, impl=impl)
    assert survivors.shape == shape
    assert survivors.dtype == torch.bool


@needs_extension
def test_cpp_has_the_same_survivors_for_any_number_of_threads():
    given = case("random", (5, 300))
    results = []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        try:
            results.append(suppress(*given, threshold=0.5, impl="cpp"))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(result, results[0]) for result in results)


@needs_extension
def test_cpp_refuses_what_it_would_read_out_of_bounds():
    operator = torch.ops.focal_plugin.suppress
    boxes, groups, competing = case("random", (2, 9))
    wrong = [
        (boxes[:, :8], groups, competing),
        (boxes.double(), groups, competing),
        (boxes, groups.int(), competing),
        (boxes, groups, competing[:1]),
        (boxes, groups, competing.long()),
        (boxes.transpose(0, 1).contiguous().transpose(0, 1), groups, competing),
    ]
    for arguments in wrong:
        with pytest.raises(RuntimeError, match="must be contiguous"):
            operator(*arguments, 0.5)
    with pytest.raises(RuntimeError, match=r"\(P, V\)"):
        operator(boxes, groups[0], competing, 0.5)


def test_the_extension_is_chosen_where_it_is_built():
    given = case("random", (2, 50))
    expected = suppress(*given, threshold=0.5, impl="eager")
    assert torch.equal(suppress(*given, threshold=0.5), expected)
    assert _choose("auto", torch.device("cpu")) == ("cpp" if has_extension() else "eager")
    assert _choose("auto", torch.device("cuda")) == "eager"


def test_an_implementation_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no kernel for boxes"):
        suppress(*case("random", (1, 2)), threshold=0.5, impl="triton")
