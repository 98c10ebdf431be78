"""Sum of a softmax loss over all anchors, by every implementation that this machine has."""

import functools
import math

import pytest
import torch

from focal_plugin.losses.poly_focal import PolyFocal
from focal_plugin.losses.sigmoid_cross_entropy import CrossEntropy
from focal_plugin.losses.sigmoid_focal import Focal
from focal_plugin.ops import (
    Point,
    SoftmaxTerms,
    apply_formula,
    softmax_loss,
    softmax_loss_per_anchor,
)
from focal_plugin.ops import softmax_loss_eager as eager
from focal_plugin.ops import softmax_loss_triton as triton_loss
from focal_plugin.ops.dense_loss_block import Block

from .test_dense_loss import LAYOUTS, every_implementation, needs_extension
from .test_fuzz import TOLERANCE, UNIT, Random, device_of, every_seed, run, spoiled
from .test_fuzz import every_implementation as with_triton

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 0.7])  # of each label, background last
TERMS = {
    "cross entropy": SoftmaxTerms(CrossEntropy()),
    "weighted": SoftmaxTerms(CrossEntropy(), WEIGHTS),
    "focal": SoftmaxTerms(Focal(2.0), WEIGHTS),
    "focal 0": SoftmaxTerms(Focal(0.0)),
    "focal .5": SoftmaxTerms(Focal(0.5)),
    "focal 1.7, smoothed": SoftmaxTerms(Focal(1.7, 0.1)),
    "focal 11": SoftmaxTerms(Focal(11.0)),
}
FOCAL = TERMS["focal"]
C = 6
DEVICES = {"rows": (61, C, 1), "planes": (2, C, 29)}
layouts = pytest.mark.parametrize("layout", DEVICES)


def batch(layout="planes", anchors=(2, 7, 5, 3), columns=C, dtype=torch.float32, scale=4.0):
    """Return logits and labels of every kind; the logits of ignored anchors are NaN."""
    generator = torch.Generator().manual_seed(0)
    logits = LAYOUTS[layout](anchors, columns, generator, lambda x: (x * scale).to(dtype))
    labels = torch.randint(-1, columns, anchors, generator=generator)
    logits.masked_fill_((labels < 0).unsqueeze(-1), math.nan)
    return logits.requires_grad_(), labels


def reference(logits, labels, terms, value_of=None):
    """
    Return the loss (...) and its gradient, from a logsumexp and autograd in float64.

    Args:
        value_of: the formula as a function of x_t; by default its value, without its own slope.
    """
    counts = labels >= 0
    x = logits.detach().double()[counts].requires_grad_()
    is_label = labels[counts].unsqueeze(-1) == torch.arange(x.shape[-1])
    x_t = x[is_label] - x.masked_fill(is_label, -math.inf).logsumexp(-1)
    value = value_of(x_t) if value_of else terms.formula.value(Point(x_t))
    if terms.weights is not None:
        value = value * terms.weights[labels[counts]]
    loss, gradient = (
        torch.zeros(labels.shape, dtype=torch.float64),
        torch.zeros_like(logits).double(),
    )
    gradient[counts] = torch.autograd.grad(value.sum(), x)[0]
    loss[counts] = value.detach()
    return loss, gradient.detach()


def assert_close(actual, expected):
    torch.testing.assert_close(actual.double(), expected.double(), rtol=2e-6, atol=2e-6)


def check_against_float64(logits, labels, terms, impl):
    expected, expected_gradient = reference(logits, labels, terms)
    loss = softmax_loss(logits, labels, terms, scale=0.3, impl=impl)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    torch.testing.assert_close(loss.double(), 0.3 * expected.sum(), rtol=1e-6, atol=1e-9)
    assert_close(torch.autograd.grad(loss, logits)[0], 0.3 * expected_gradient)
    per_anchor = softmax_loss_per_anchor(logits, labels, terms, impl=impl)
    assert_close(per_anchor, expected)
    upstream = torch.linspace(-1, 1, labels.numel()).view(labels.shape)
    (gradient,) = torch.autograd.grad(per_anchor, logits, upstream)
    assert_close(gradient, upstream.unsqueeze(-1) * expected_gradient)


@every_implementation
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TERMS)
def test_loss_and_gradient_equal_autograd_in_float64(name, layout, impl):
    check_against_float64(*batch(layout), TERMS[name], impl)


@every_implementation
@pytest.mark.parametrize("num_classes", [1, 2, 15, 80, 1203])
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_every_size_works(layout, num_classes, impl):
    # the last sizes take several blocks, units and chunks, of which the last one is not full
    sizes = {1: (2, 71, 67, 1), 80: (1, 71, 67, 1), 1203: (1, 23, 11, 1)}
    for anchors in ((1, 1, 1, 1), (2, 1, 1, 3), (1, 5, 3, 2), sizes.get(num_classes, (1, 3, 1, 1))):
        terms = SoftmaxTerms(Focal(2.0), torch.linspace(0, 1, num_classes + 1))
        check_against_float64(*batch(layout, anchors, num_classes + 1), terms, impl)


@every_implementation
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0,), (2, 0, 3), (1, 0, 1, 1)])
def test_no_anchors_give_a_differentiable_zero(shape, impl):
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.zeros(*shape, C, dtype=dtype, requires_grad=True)
        labels = torch.zeros(shape, dtype=torch.int64)
        loss = softmax_loss(logits, labels, FOCAL, impl=impl)
        assert loss == 0
        assert torch.autograd.grad(loss, logits)[0].shape == logits.shape
        assert softmax_loss_per_anchor(logits, labels, FOCAL, impl=impl).shape == shape


@every_implementation
def test_several_levels_are_one_sum(impl):
    of_levels = [batch("planes", (2, size, size, 3)) for size in (6, 3, 1)]
    logits, labels = zip(*of_levels, strict=True)
    loss = softmax_loss(logits, labels, FOCAL, scale=0.1, impl=impl)
    alone = [softmax_loss(*level, FOCAL, scale=0.1, impl=impl) for level in of_levels]
    torch.testing.assert_close(loss, sum(alone))
    gradients = (torch.autograd.grad(x, logits) for x in (loss, sum(alone)))
    for together, by_itself in zip(*gradients, strict=True):
        assert torch.equal(together, by_itself)


@every_implementation
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gradient_has_the_memory_layout_of_the_logits(layout, impl):
    seen = []
    logits, labels = batch(layout, (2, 8, 6, 3))
    logits.register_hook(lambda gradient: seen.append(gradient.stride()))
    softmax_loss(logits, labels, FOCAL, impl=impl).backward()
    if layout != "slices":
        assert seen == [logits.stride()]


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_ignored_anchors_have_no_loss_and_no_gradient(layout, impl):
    """Mining leaves few anchors, and whole blocks without any."""
    logits, labels = batch(layout, (2, 33, 41, 3))
    labels = labels.masked_fill(torch.arange(labels.numel()).view(labels.shape) % 500 != 0, -1)
    for kept in (labels, torch.full_like(labels, -1)):
        with torch.no_grad():
            logits.masked_fill_((kept < 0).unsqueeze(-1), math.nan)
        check_against_float64(logits, kept, FOCAL, impl)
        (gradient,) = torch.autograd.grad(softmax_loss(logits, kept, FOCAL, impl=impl), logits)
        assert (gradient[kept < 0] == 0).all()


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bits_do_not_depend_on_the_number_of_threads(dtype, layout, impl):
    logits, labels = batch(layout, (2, 61, 47, 3), 7, dtype)
    terms = SoftmaxTerms(Focal(1.5), torch.linspace(0, 1, 7))
    results, threads = [], torch.get_num_threads()
    for number in (1, 2) if impl == "eager" else (1, 2, 3):
        torch.set_num_threads(number)
        loss = softmax_loss(logits, labels, terms, impl=impl)
        results.append((loss, torch.autograd.grad(loss, logits)[0]))
    torch.set_num_threads(threads)
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_half_precision_is_computed_in_float32_and_rounded_once(layout, impl):
    logits, labels = batch(layout, dtype=torch.bfloat16)
    wide = logits.detach().float().requires_grad_()
    losses = [softmax_loss(x, labels, FOCAL, scale=64.0, impl=impl) for x in (logits, wide)]
    assert torch.equal(*losses)
    narrow, exact = (torch.autograd.grad(*x)[0] for x in zip(losses, (logits, wide), strict=True))
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, exact.bfloat16())


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.0])
def test_extreme_logits_give_finite_losses_and_gradients(gamma, layout, impl):
    magnitudes = torch.tensor([17.0, 45.0, 80.0, 87.0, 88.0, 89.0, 104.0, 1e4, 1e30])
    for first in (magnitudes, -magnitudes):
        zeros = torch.zeros_like(first)
        logits = torch.stack([first, zeros, -first, zeros - 200], dim=1).requires_grad_()
        for label in range(4):
            labels = torch.full((len(first),), label)
            x, y = logits, labels
            if layout == "planes":
                x, y = x.t().contiguous().t().unsqueeze(0), y.unsqueeze(0)
            for terms in (SoftmaxTerms(Focal(gamma)), SoftmaxTerms(CrossEntropy())):
                # autograd of a power is NaN at 0
                formula = functools.partial(apply_formula, terms.formula)
                expected, expected_gradient = reference(logits, labels, terms, formula)
                loss = softmax_loss_per_anchor(x, y, terms, impl=impl).flatten()
                (gradient,) = torch.autograd.grad(loss.sum(), logits)
                torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-30)
                torch.testing.assert_close(
                    gradient.double(), expected_gradient, rtol=1e-5, atol=1e-19
                )


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
@pytest.mark.parametrize(
    "formula",
    [Focal(2.0), Focal(0.5), CrossEntropy()],
    ids=["focal 2", "focal .5", "cross entropy"],
)
def test_infinite_logits_have_the_loss_of_the_limit(formula, layout, impl):
    terms = SoftmaxTerms(formula)
    inf, nan = math.inf, math.nan
    rows = [[inf, 0, 1], [0, -inf, -inf], [0, -inf, 1]]  # certain, certain, one less
    wrong = [[0, inf, 0], [-inf, 0, 0], [0, nan, 0], [nan, 0, 0]]
    logits = torch.tensor(rows + wrong, requires_grad=True)
    labels = torch.zeros(len(logits), dtype=torch.int64)
    x, y = logits, labels
    if layout == "planes":
        x, y = x.t().contiguous().t().unsqueeze(0), y.unsqueeze(0)
    loss = softmax_loss_per_anchor(x, y, terms, impl=impl).flatten()
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert (loss[:2].abs() < 1e-30).all()
    assert (gradient[:2] == 0).all()
    pair = softmax_loss_per_anchor(torch.tensor([[0.0, 1.0]]), labels[:1], terms, impl=impl)
    torch.testing.assert_close(loss[2:3], pair)
    assert gradient[2, 1] == 0
    assert not loss[3:].isfinite().any()
    assert loss[5:].isnan().all()
    assert gradient[5:, 0].isnan().all()


@every_implementation
def test_gradients_that_would_be_subnormal_are_zero(impl):
    x = torch.linspace(-60, -30, 64).unsqueeze(1) * torch.tensor([1.0, 0.0])
    logits = torch.cat([x, torch.full((64, 1), -50.0)], dim=1).requires_grad_()
    labels = torch.ones(64, dtype=torch.int64)
    loss = softmax_loss(logits, labels, SoftmaxTerms(CrossEntropy()), scale=1e-3, impl=impl)
    (gradient,) = torch.autograd.grad(loss, logits)
    flushed = torch.softmax(logits.detach().double(), 1)[:, ::2] < 1e-20
    assert flushed.any()
    assert ((gradient[:, ::2] == 0) == flushed).all()


@every_implementation
def test_a_loss_can_be_differentiated_once(impl):
    logits, labels = batch()
    for loss in (softmax_loss, softmax_loss_per_anchor):
        total = loss(logits, labels, FOCAL, impl=impl).sum()
        with pytest.raises(RuntimeError, match="differentiated once"):
            torch.autograd.grad(total, logits, create_graph=True)


@every_implementation
def test_a_second_backward_pass_has_the_same_gradient(impl):
    logits, labels = batch()
    loss = softmax_loss(logits, labels, FOCAL, impl=impl)
    first, second = (torch.autograd.grad(loss * 3, logits, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, second)


def test_a_formula_without_a_kernel_is_computed_by_pytorch():
    logits, labels = batch()
    terms = SoftmaxTerms(PolyFocal(2.0, 1.0, 0.5))
    check_against_float64(logits, labels, terms, "auto")
    with pytest.raises(ValueError, match="PolyFocal is not one of its formulas"):
        softmax_loss(logits, labels, terms, impl="cpp")


@needs_extension
def test_the_operator_refuses_memory_that_it_would_misread():
    legal = {
        "logits": torch.zeros(2, 3, 4),
        "labels": torch.zeros(2, 4, dtype=torch.int32),
        "weights": torch.ones(3),
        "formula": "focal",
        "parameters": torch.ones(4),
        "factor": torch.ones(2, 4),
        "per_anchor": torch.zeros(2, 4),
        "gradient": torch.zeros(2, 3, 4),
    }
    operator = torch.ops.focal_plugin.softmax_loss
    operator(**legal)
    operator(**{**legal, "factor": torch.ones(())})
    operator(**{**legal, "labels": legal["labels"] + 3})  # ignored, not read
    assert (legal["per_anchor"] == 0).all()
    for name, tensor in legal.items():
        for wrong in spoiled(tensor) if isinstance(tensor, torch.Tensor) else ():
            if name == "factor" and wrong.shape == ():
                continue
            with pytest.raises(RuntimeError, match=" must be "):
                operator(**{**legal, name: wrong})
    for wrong in ({"factor": None}, {"gradient": None}, {"formula": "hinge"}):
        with pytest.raises(RuntimeError, match=r"requires|formula"):
            operator(**{**legal, **wrong})


@every_seed
@with_triton
def test_random_inputs_equal_float64(impl, seed):
    run(check_softmax_loss, impl, seed, 10)


def check_softmax_loss(choose: Random, impl):
    """Compare the loss of a random shape, layout and dtype with float64."""
    anchors, columns = choose.anchors(), choose.choice([2, 2, 3, 6, 17, 33])
    dtype, device = choose.choice([torch.float32, torch.bfloat16]), device_of(impl)
    if impl == "eager":
        dtype = choose.choice([dtype, torch.float16, torch.float64])
    torch.set_num_threads(choose.randint(1, 2))
    scale = choose.choice([1, 4, 40])
    logits = torch.randn(*anchors, columns, generator=choose.torch) * scale
    labels = torch.randint(-1, columns, anchors, generator=choose.torch)
    labels = labels.masked_fill(
        torch.rand(anchors, generator=choose.torch) < choose.choice([0, 0, 0.9, 1]), -1
    )
    logits, labels = choose.layout(logits.to(dtype)), choose.layout(labels)
    weights = choose.choice([None, torch.rand(columns, generator=choose.torch)])
    formula = choose.choice([CrossEntropy(), Focal(2.0), Focal(choose.random() * 9)])
    expected, expected_gradient = reference(logits, labels, SoftmaxTerms(formula, weights))
    case = f"{tuple(logits.shape)} {logits.stride()} {dtype} {formula} {weights}"

    terms = SoftmaxTerms(formula, None if weights is None else weights.to(device))
    x, y = logits.to(device).detach().requires_grad_(), labels.to(device)
    loss = softmax_loss(x, y, terms, scale=0.3, impl=impl)
    assert torch.allclose(loss.cpu().double(), 0.3 * expected.sum(), rtol=3e-6, atol=1e-6), case
    (gradient,) = torch.autograd.grad(loss * 2.5, x)
    exact = 0.75 * expected_gradient
    assert torch.allclose(gradient.cpu().double(), exact, **TOLERANCE[dtype]), case
    given = choose.layout(torch.randn(anchors, generator=choose.torch)).to(device)
    per_anchor = softmax_loss_per_anchor(x, y, terms, impl=impl)
    (gradient,) = torch.autograd.grad(per_anchor, x, given)
    exact = given.cpu().double().unsqueeze(-1) * expected_gradient
    assert torch.allclose(gradient.cpu().double(), exact, **TOLERANCE[dtype]), case
    assert max(anchors, default=0) <= 2 * UNIT + 1


# Triton


def make_block(shape, dtype=torch.float32):
    """Return a block (G, C, T) with every kind of label, and NaN where ignored."""
    groups, columns, anchors = shape
    logits, labels = batch("rows", (groups, anchors), columns, dtype)
    return Block(logits.detach().transpose(1, 2).contiguous(), labels.int(), None)


def assert_equals_eager(actual, block, terms, factor):
    loss, gradient = actual
    expected, expected_gradient = eager.evaluate(block, terms, factor)
    is_half = block.logits.dtype != torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-5 if is_half else 5e-6, atol=1e-6)
    assert (loss[block.labels < 0] == 0).all()
    if factor is None:
        assert gradient is None
        return
    torch.testing.assert_close(gradient, expected_gradient, **TOLERANCE[gradient.dtype])
    assert (gradient[(block.labels < 0).unsqueeze(1).expand_as(gradient)] == 0).all()


@layouts
@pytest.mark.parametrize("name", TERMS)
def test_triton_equals_eager(name, layout, interpreter):
    block = make_block(DEVICES[layout])
    of_anchors = torch.linspace(-3, 3, block.labels.numel()).view(block.labels.shape)
    for factor in (None, torch.tensor(0.3), of_anchors):
        actual = interpreter(triton_loss.evaluate, block, TERMS[name], factor)
        assert_equals_eager(actual, block, TERMS[name], factor)


@pytest.mark.parametrize(
    "shape",
    [(2, 2, 5), (5, 2, 1), (1, 81, 35), (33, 81, 1), (2, 2100, 3), (3, 2100, 1), (0, 3, 5)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_size_works_in_triton(dtype, shape, interpreter):
    block, factor = make_block(shape, dtype), torch.tensor(-2.0)
    terms = SoftmaxTerms(Focal(2.0), torch.linspace(0, 1, shape[1]))
    actual = interpreter(triton_loss.evaluate, block, terms, factor)
    assert_equals_eager(actual, block, terms, factor)


@layouts
def test_extreme_logits_are_finite_in_triton(layout, interpreter):
    magnitudes = torch.tensor([17.0, 80.0, 87.0, 89.0, 104.0, 1e4, 1e30])
    x = torch.stack([magnitudes, -magnitudes, 0 * magnitudes])
    logits = torch.cat([x, -x], dim=1).unsqueeze(0)
    if layout == "rows":
        logits = logits.squeeze(0).t().unsqueeze(2).contiguous()
    for label in range(3):
        labels = torch.full((logits.shape[0], logits.shape[2]), label, dtype=torch.int32)
        block = Block(logits, labels, None)
        for terms in (SoftmaxTerms(Focal(0.5)), SoftmaxTerms(Focal(2.0))):
            actual = interpreter(triton_loss.evaluate, block, terms, torch.tensor(1.0))
            assert_equals_eager(actual, block, terms, torch.tensor(1.0))
