"""Order of the largest scores, against a stable sort of all scores."""

import pytest
import torch

from focal_plugin.ops.descending import descending
from focal_plugin.ops.extension import has_extension

from ..each import each

INF = float("inf")

needs_extension = pytest.mark.skipif(not has_extension(), reason="the C++ extension is not built")
every_impl = pytest.mark.parametrize("impl", [pytest.param("cpp", marks=needs_extension), "eager"])


def scores_of(name, shape):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(shape, generator=generator)
    return {
        "all different": scores,
        "few different": (2 * scores).floor(),
        "all equal": torch.full(shape, -3.0),
        "zeros of both signs": torch.where(scores > 0, 0.0, -0.0),
        "infinite": scores.masked_fill(scores > 1, INF).masked_fill(scores < 0, -INF),
        "almost equal": 1 + scores.sign() * torch.finfo(torch.float32).eps,
        "of all sizes": torch.exp(40 * scores) * scores.sign(),
    }[name]


NAMES = [
    "all different",
    "few different",
    "all equal",
    "zeros of both signs",
    "infinite",
    "almost equal",
    "of all sizes",
]


@every_impl
@each("name", NAMES)
@each("shape", [(1, 1), (3, 50), (2, 3000)])
def test_it_is_the_head_of_a_stable_sort(name, shape, impl):
    scores = scores_of(name, shape)
    order = scores.sort(dim=1, descending=True, stable=True).indices
    for count in (0, 1, 2, shape[1] // 3, shape[1] - 1, shape[1], shape[1] + 9):
        assert torch.equal(descending(scores, count, impl=impl), order[:, :count]), count


@every_impl
@each("shape", [(0, 5), (4, 0), (0, 0)])
def test_no_row_and_no_score_give_no_index(shape, impl):
    order = descending(torch.zeros(shape), 3, impl=impl)
    assert order.shape == (shape[0], min(3, shape[1]))
    assert order.dtype == torch.int64


@every_impl
def test_scores_need_not_be_contiguous(impl):
    scores = scores_of("few different", (40, 3))
    expected = descending(scores.t().contiguous(), 9, impl=impl)
    assert torch.equal(descending(scores.t(), 9, impl=impl), expected)


@needs_extension
def test_cpp_has_the_same_order_for_any_number_of_threads():
    scores = scores_of("few different", (7, 2000))
    orders = []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        try:
            orders.append(descending(scores, 500, impl="cpp"))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(order, orders[0]) for order in orders)


@needs_extension
def test_cpp_refuses_what_it_would_read_out_of_bounds():
    operator = torch.ops.focal_plugin.descending
    with pytest.raises(RuntimeError, match="contiguous Float"):
        operator(torch.zeros(3, 4).t(), 1)
    with pytest.raises(RuntimeError, match="contiguous Float"):
        operator(torch.zeros(3, 4, dtype=torch.float64), 1)
    for count in (-1, 5):
        with pytest.raises(RuntimeError, match=r"0\.\.4"):
            operator(torch.zeros(3, 4), count)


def test_an_implementation_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no kernel for orders"):
        descending(torch.zeros(1, 1), 1, impl="triton")
    with pytest.raises(ValueError, match="impl must be"):
        descending(torch.zeros(1, 1), 1, impl="fast")
