"""Sum of a loss over all anchors, by every implementation that this machine has."""

import math

import pytest
import torch

from focal_plugin.losses.asymmetric import AsymmetricNegative
from focal_plugin.losses.ghm import BinnedCrossEntropy
from focal_plugin.losses.gumbel import Gumbel, GumbelComplement
from focal_plugin.losses.matchability_aware import DetachedFocal, SoftTarget
from focal_plugin.losses.poly_focal import PolyFocal
from focal_plugin.losses.quality_focal import QualityFocal
from focal_plugin.losses.sigmoid_cross_entropy import CrossEntropy
from focal_plugin.losses.sigmoid_focal import Focal
from focal_plugin.losses.sigmoid_focal_star import FocalStar
from focal_plugin.losses.sigmoid_hinge import Hinge
from focal_plugin.losses.varifocal import Varifocal
from focal_plugin.ops import (
    Formula,
    Point,
    Terms,
    dense_loss,
    dense_loss_per_anchor,
)
from focal_plugin.ops.extension import has_extension

needs_extension = pytest.mark.skipif(not has_extension(), reason="the C++ extension is not built")
IMPLEMENTATIONS = [pytest.param("cpp", marks=needs_extension), "eager"]
every_implementation = pytest.mark.parametrize("impl", IMPLEMENTATIONS)

FOCAL = Terms(Focal(2.0), Focal(2.0), 0.25, 0.75)
UP, DOWN = torch.linspace(0.3, 1.5, 5), torch.linspace(9.5, 0.0, 5)
BINS = BinnedCrossEntropy(torch.tensor([0.1, 1.0, 0.0, 2.0, 0.5, 0.7, 3.0]))
SPARED = torch.tensor([True, False, True, False, False])
LABELS = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 0.7])  # a weight for each label, background last
TERMS = {
    "cross entropy": Terms(CrossEntropy(), CrossEntropy()),
    "focal": FOCAL,
    "focal 0": Terms(Focal(0.0), Focal(0.0), 0.25, 0.75),
    "focal .5": Terms(Focal(0.5), Focal(0.5)),
    "focal 1.7, smoothed": Terms(Focal(1.7, 0.1), Focal(1.7, 0.1)),
    "focal 11": Terms(Focal(11.0), Focal(11.0)),
    "alpha for each class": Terms(
        Focal(2.0), Focal(2.0), torch.linspace(0, 1, 5), 1 - torch.linspace(0, 1, 5)
    ),
    "FL*": Terms(FocalStar(2.0, 1.0), FocalStar(2.0, 1.0), 0.25, 0.75),
    "Poly": Terms(PolyFocal(2.0, 0.25, 1.0), PolyFocal(2.0, 0.75, 1.0)),
    "hinge": Terms(Hinge(0.7), Hinge(0.7)),
    "quality": Terms(QualityFocal(2.0), Focal(2.0)),
    "quality 0": Terms(QualityFocal(0.0), Focal(0.0)),
    "quality 1.5": Terms(QualityFocal(1.5), Focal(1.5)),
    "varifocal": Terms(Varifocal(0.75, 1.3), Focal(1.3), negative_weight=0.75),
    "soft target": Terms(SoftTarget(1.5), DetachedFocal(1.5), negative_weight=0.75),
    "soft target 2": Terms(SoftTarget(2.0), DetachedFocal(2.0)),
    "aligned target": Terms(SoftTarget(0.75, 0.25, 0.01), DetachedFocal(0.0)),
    "score as target": Terms(SoftTarget(0.0, 1.0, 0.01), DetachedFocal(0.5)),
    "constant target": Terms(SoftTarget(0.0), DetachedFocal(11.0)),
    "Gumbel": Terms(Gumbel(), GumbelComplement(), 0.25, 0.75),
    "asymmetric": Terms(Focal(1.0), AsymmetricNegative(4.0, 0.05)),
    "asymmetric .5": Terms(Focal(0.0), AsymmetricNegative(0.5, 0.3)),
    "asymmetric 9.5": Terms(AsymmetricNegative(9.5, 1e-3), AsymmetricNegative(9.5, 1e-3)),
    "bins": Terms(BINS, BINS),
}
OF_CLASSES = {
    "gamma for each class": Terms(Focal(DOWN), Focal(DOWN), UP, 1 / UP),
    "FL* for each class": Terms(FocalStar(UP, DOWN), FocalStar(DOWN + 1, -UP)),
    "Poly for each class": Terms(PolyFocal(DOWN, UP, -UP), PolyFocal(2.0, UP, DOWN)),
    "hinge for each class": Terms(Hinge(0.7), Hinge(UP / 1.5)),
    "margin for each class": Terms(Focal(UP, 0.1), AsymmetricNegative(DOWN, UP / 2)),
    "constant for each class": Terms(DetachedFocal(DOWN), DetachedFocal(UP)),
    "weight for each label": Terms(Focal(2.0), Focal(2.0), anchor_weight=LABELS),
    "spared": Terms(CrossEntropy(), CrossEntropy(), spared=SPARED),
    "all of them": Terms(Focal(DOWN), Focal(UP), UP, DOWN, spared=SPARED, anchor_weight=LABELS),
}
"""Terms for five classes."""
TERMS |= OF_CLASSES
K = 5


def as_contiguous(anchors, num_classes, generator, finish):
    return finish(torch.randn(*anchors, num_classes, generator=generator))


def as_planes(anchors, num_classes, generator, finish):
    """Return (N, Hi, Wi, A, K), a view of (N, A * K, Hi, Wi)."""
    n, h, w, a = anchors
    output = finish(torch.randn(n, a * num_classes, h, w, generator=generator))
    return output.view(n, a, num_classes, h, w).permute(0, 3, 4, 1, 2)


def as_channels_last(anchors, num_classes, generator, finish):
    n, h, w, a = anchors
    output = finish(torch.randn(n, a * num_classes, h, w, generator=generator))
    output = output.contiguous(memory_format=torch.channels_last)
    return output.view(n, a, num_classes, h, w).permute(0, 3, 4, 1, 2)


def as_slices(anchors, num_classes, generator, finish):
    """Return a layout that must be copied: without the background's logit, as in a box head."""
    return finish(torch.randn(*anchors, num_classes + 1, generator=generator))[..., :-1]


LAYOUTS = {"rows": as_contiguous, "planes": as_planes, "channels last": as_channels_last}
LAYOUTS["slices"] = as_slices


def batch(layout="planes", anchors=(2, 7, 5, 3), num_classes=K, dtype=torch.float32, scale=4.0):
    """Return logits, labels of every kind, and qualities that include 0."""
    generator = torch.Generator().manual_seed(0)
    logits = LAYOUTS[layout](anchors, num_classes, generator, lambda x: (x * scale).to(dtype))
    labels = torch.randint(-1, num_classes + 1, anchors, generator=generator)
    quality = ((torch.rand(anchors, generator=generator) - 0.1) / 0.8).clamp(0, 1)
    return logits, labels, quality


def reference(logits, labels, quality, terms):
    """Return the loss (...) and its gradient, from one-hot targets and autograd in float64."""
    x = logits.detach().double().requires_grad_()
    classes = torch.arange(x.shape[-1])
    is_positive = labels.unsqueeze(-1) == classes
    counts = (labels >= 0).unsqueeze(-1)
    q = quality.double().unsqueeze(-1).expand_as(x)
    positive = terms.positive.value(Point(x, q)) * terms.positive_weight
    negative = terms.negative.value(Point(-x)) * terms.negative_weight
    if terms.spared is not None:
        is_object = (labels >= 0) & (labels < x.shape[-1])
        negative = negative * ~(is_object.unsqueeze(-1) & terms.spared)
    loss = torch.where(is_positive, positive, negative) * counts
    if terms.anchor_weight is not None:
        loss = loss * terms.anchor_weight[labels.long()].unsqueeze(-1)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss.sum(-1), gradient


def reference_slopes(gradient, labels):
    """Return the sums of |gradient| of positives and of negatives of each class, (2, K)."""
    is_positive = labels.unsqueeze(-1) == torch.arange(gradient.shape[-1])
    parts = [gradient.abs() * is_positive, gradient.abs() * ~is_positive]
    return torch.stack([x.reshape(labels.numel(), x.shape[-1]).sum(0) for x in parts])


def assert_close(actual, expected):
    torch.testing.assert_close(actual.double(), expected.double(), rtol=3e-6, atol=2e-6)


@every_implementation
@pytest.mark.parametrize("name", TERMS)
def test_loss_and_gradient_equal_autograd_in_float64(name, impl):
    for layout in LAYOUTS:
        check_against_float64(name, layout, impl)


def check_against_float64(name, layout, impl):
    logits, labels, quality = batch(layout)
    logits.requires_grad_()
    expected, expected_gradient = reference(logits, labels, quality, TERMS[name])
    options = {"quality": quality, "impl": impl}

    loss = dense_loss(logits, labels, TERMS[name], scale=0.3, **options)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    torch.testing.assert_close(loss.double(), 0.3 * expected.sum(), rtol=1e-6, atol=0)
    assert_close(torch.autograd.grad(loss, logits)[0], 0.3 * expected_gradient)

    per_anchor = dense_loss_per_anchor(logits, labels, TERMS[name], **options)
    assert_close(per_anchor, expected)
    upstream = torch.linspace(-1, 1, labels.numel()).view(labels.shape)
    (gradient,) = torch.autograd.grad(per_anchor, logits, upstream)
    assert_close(gradient, upstream.unsqueeze(-1) * expected_gradient)

    slopes = torch.ones(2, K, dtype=torch.float64)  # the sums are added
    same = dense_loss(logits, labels, TERMS[name], scale=0.3, slopes=slopes, **options)
    torch.testing.assert_close(same, loss, rtol=1e-6, atol=0)
    assert_close(torch.autograd.grad(same, logits)[0], 0.3 * expected_gradient)
    expected_slopes = 1 + reference_slopes(expected_gradient, labels)
    torch.testing.assert_close(slopes, expected_slopes, rtol=1e-6, atol=2e-6)


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_slopes_do_not_require_a_gradient(layout, impl):
    logits, labels, _ = batch(layout, (2, 37, 31, 3))
    slopes = torch.zeros(3, 2, K, dtype=torch.float64)
    dense_loss(logits.requires_grad_(), labels, FOCAL, scale=0.0, slopes=slopes[0], impl=impl)
    dense_loss(logits.detach(), labels, FOCAL, slopes=slopes[1], impl=impl)
    assert torch.equal(slopes[0], slopes[1])
    of_anchors = list(zip(logits.unbind(1), labels.unbind(1), strict=True))
    for x, y in of_anchors:
        dense_loss(x.detach(), y, FOCAL, slopes=slopes[2], impl=impl)
    torch.testing.assert_close(slopes[2], slopes[0], rtol=1e-6, atol=0)


@every_implementation
@pytest.mark.parametrize("num_classes", [1, 3, 16, 17, 80])
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_every_size_works(layout, num_classes, impl):
    # the last size takes several chunks, of which the last one is not full
    many = (2, 71, 67, 1) if num_classes == 80 else (2, 13, 11, 1)
    for anchors in ((1, 1, 1, 1), (2, 1, 1, 3), (1, 33, 1, 2), many):
        logits, labels, quality = batch(layout, anchors, num_classes)
        logits.requires_grad_()
        expected, expected_gradient = reference(logits, labels, quality, FOCAL)
        loss = dense_loss(logits, labels, FOCAL, impl=impl)
        torch.testing.assert_close(loss.double(), expected.sum(), rtol=1e-6, atol=0)
        assert_close(torch.autograd.grad(loss, logits)[0], expected_gradient)
        assert_close(dense_loss_per_anchor(logits, labels, FOCAL, impl=impl), expected)


@every_implementation
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0,), (2, 0, 3), (1, 0, 1, 1)])
def test_no_anchors_give_a_differentiable_zero(shape, impl):
    for num_classes in (0, 1, 2, K):
        for dtype in (torch.float32, torch.bfloat16):
            logits = torch.zeros(*shape, num_classes, dtype=dtype, requires_grad=True)
            labels = torch.zeros(shape, dtype=torch.int64)
            loss = dense_loss(logits, labels, FOCAL, impl=impl)
            assert loss == 0
            assert torch.autograd.grad(loss, logits)[0].shape == logits.shape
            assert dense_loss_per_anchor(logits, labels, FOCAL, impl=impl).shape == shape


@every_implementation
def test_several_levels_are_one_sum(impl):
    of_levels = [batch("planes", (2, size, size, 3)) for size in (6, 3, 1)]
    logits = [x.requires_grad_() for x, _, _ in of_levels]
    labels = [y for _, y, _ in of_levels]
    loss = dense_loss(logits, labels, FOCAL, scale=0.1, impl=impl)
    alone = [
        dense_loss(x, y, FOCAL, scale=0.1, impl=impl) for x, y in zip(logits, labels, strict=True)
    ]
    torch.testing.assert_close(loss, sum(alone))
    for together, by_itself in zip(
        torch.autograd.grad(loss, logits), torch.autograd.grad(sum(alone), logits), strict=True
    ):
        assert torch.equal(together, by_itself)


@every_implementation
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gradient_has_the_memory_layout_of_the_logits(layout, impl):
    """The gradient also reaches a convolution's output without a copy."""
    seen = []
    logits, labels, _ = batch(layout, (2, 8, 6, 3))
    logits.requires_grad_()
    logits.register_hook(lambda gradient: seen.append(gradient.stride()))
    dense_loss(logits, labels, FOCAL, impl=impl).backward()
    if layout != "slices":
        assert seen == [logits.stride()]


@every_implementation
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["focal", "quality", "alpha for each class", "all of them"])
def test_a_few_valid_anchors_give_the_same_result_as_alone(name, layout, impl):
    """Mining leaves such batches."""
    logits, labels, quality = batch(layout, (2, 33, 41, 3))
    every_fiftieth = (torch.arange(labels.numel()) % 50 == 0).view(labels.shape)
    labels = labels.masked_fill(~every_fiftieth, -1)
    logits.masked_fill_(labels.unsqueeze(-1) < 0, math.nan)
    logits.requires_grad_()
    clean = logits.detach().nan_to_num()
    expected, expected_gradient = reference(clean, labels, quality, TERMS[name])
    options = {"quality": quality, "impl": impl}
    loss = dense_loss(logits, labels, TERMS[name], **options)
    torch.testing.assert_close(loss.double(), expected.sum(), rtol=1e-6, atol=0)
    assert_close(torch.autograd.grad(loss, logits)[0], expected_gradient)
    per_anchor = dense_loss_per_anchor(logits, labels, TERMS[name], **options)
    assert_close(per_anchor, expected)
    upstream = torch.linspace(-1, 1, labels.numel()).view(labels.shape)
    (gradient,) = torch.autograd.grad(per_anchor, logits, upstream)
    assert_close(gradient, upstream.unsqueeze(-1) * expected_gradient)


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
@pytest.mark.parametrize(
    "name", ["focal", "varifocal", "focal 1.7, smoothed", "asymmetric", "bins", "all of them"]
)
def test_ignored_anchors_do_not_leak(name, layout, impl):
    logits, labels, quality = batch(layout)
    results = []
    for bad in (0.0, math.nan, math.inf):
        x = logits.clone()
        x[labels == -1] = bad
        x.requires_grad_()
        slopes = torch.zeros(2, K, dtype=torch.float64)
        loss = dense_loss(x, labels, TERMS[name], quality=quality, slopes=slopes, impl=impl)
        results.append((loss, torch.autograd.grad(loss, x)[0], slopes))
        of_anchors = dense_loss_per_anchor(x, labels, TERMS[name], quality=quality, impl=impl)
        assert (of_anchors[labels == -1] == 0).all(), bad
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))
        assert (result[1][labels == -1] == 0).all()


@every_implementation
@pytest.mark.parametrize("name", ["focal", "asymmetric", "asymmetric .5", "bins"])
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_a_nan_propagates(layout, name, impl):
    for label in (0, 1, K):  # its own logit, another's, the background's
        logits, labels, _ = batch(layout)
        labels[0, 0, 0, 0] = label
        logits[0, 0, 0, 0, 0] = math.nan
        logits.requires_grad_()
        loss = dense_loss(logits, labels, TERMS[name], impl=impl)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isnan()
        assert gradient.isnan().sum() == 1
        assert gradient[0, 0, 0, 0, 0].isnan()


@every_implementation
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
def test_the_gradient_is_exact_to_the_last_bits(gamma, impl):
    """The error is relative, for positives and negatives, at logits from -15 to 15."""
    x = torch.linspace(-15, 15, 4001).unsqueeze(1).requires_grad_()
    for label, sign in ((0, 1), (1, -1)):
        loss = dense_loss(
            x, torch.full((len(x),), label), Terms(Focal(gamma), Focal(gamma)), impl=impl
        )
        (gradient,) = torch.autograd.grad(loss, x)
        x_t = sign * x.detach().double()
        p, q = torch.sigmoid(x_t), torch.sigmoid(-x_t)
        ce = torch.nn.functional.softplus(-x_t, threshold=50)
        expected = -sign * q**gamma * (gamma * p * ce + q)
        error = ((gradient - expected) / expected).abs()
        assert error[expected.abs() > 1e-19].max() < 2e-6


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_extreme_logits_give_finite_losses_and_gradients(layout, impl):
    magnitudes = torch.tensor([17.0, 87.0, 88.0, 104.0, 1e4, 1e30])
    logits, labels, _ = batch(layout)
    signs = torch.where(logits > 0, 1.0, -1.0)
    rows = torch.arange(logits.numel()).view(logits.shape)
    logits.copy_(signs * magnitudes[rows % len(magnitudes)])
    logits.requires_grad_()
    for gamma in (0.0, 0.1, 0.5, 1.0, 2.0, 5.0):
        loss = dense_loss(logits, labels, Terms(Focal(gamma), Focal(gamma)), impl=impl)
        assert loss.isfinite(), gamma
        assert torch.autograd.grad(loss, logits)[0].isfinite().all(), gamma


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_gradients_that_would_be_subnormal_are_zero(layout, impl):
    """Subnormal numbers slow down convolutions several times; fvcore rounds them to 0 too."""
    logits, labels, _ = batch(layout)
    logits = logits.abs().mul(10).neg().requires_grad_()  # confident negatives
    background = labels.masked_fill(labels >= 0, K)
    gradients = {
        "at once": dense_loss(logits, background, FOCAL, scale=1e-3, impl=impl),
        "later": dense_loss_per_anchor(logits, background, FOCAL, impl=impl).sum() * 1e-3,
    }
    for loss in gradients.values():
        (gradient,) = torch.autograd.grad(loss, logits)
        magnitude = gradient.abs()
        smallest = 1e-20 * 0.75 * 1e-3
        assert ((magnitude == 0) | (magnitude >= smallest * (1 - 1e-6))).all()
        assert (magnitude[logits < -40] == 0).all()
        assert (magnitude > 0).any()


def test_the_exact_gradient_would_be_subnormal():
    """The inputs of the previous test have gradients to flush."""
    x_t = torch.full((1,), 30.0, dtype=torch.float64)
    (slope,) = (1e-3 * Focal(2.0).slope(Point(x_t))).float()
    assert 0 < slope.abs() < torch.finfo(torch.float32).tiny


@pytest.mark.parametrize(
    ("impl", "dtype"),
    [
        pytest.param("cpp", torch.bfloat16, marks=needs_extension),
        *(("eager", dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64)),
    ],
)
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_other_dtypes_are_computed_in_float32(layout, dtype, impl):
    logits, labels, quality = batch(layout, dtype=dtype)
    logits.requires_grad_()
    expected, expected_gradient = reference(logits, labels, quality, FOCAL)
    loss = dense_loss(logits, labels, FOCAL, impl=impl)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(loss.double(), expected.sum(), rtol=1e-6, atol=0)
    # each rounded once, to the nearest
    nearest = expected_gradient.float().to(dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), nearest.double(), rtol=max(eps, 3e-6), atol=1e-7)


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_half_precision_is_rounded_once_and_to_the_nearest(layout, impl):
    logits, labels, _ = batch(layout, (2, 31, 37, 3), dtype=torch.bfloat16)
    gradients = []
    for x in (logits, logits.float()):
        x.requires_grad_()
        loss = dense_loss(x, labels, FOCAL, impl=impl)
        gradients.append(torch.autograd.grad(loss, x)[0])
    assert torch.equal(gradients[0], gradients[1].to(torch.bfloat16))


@every_implementation
@pytest.mark.parametrize("loss_scale", [3.0, 1024.0, 65536.0])
@pytest.mark.parametrize("name", ["focal", "quality"])
def test_a_loss_scale_applies_before_half_precision_is_rounded(name, loss_scale, impl):
    """It is there to prevent that small gradients underflow."""
    dtype = torch.bfloat16 if impl == "cpp" else torch.float16  # it has no float16
    logits, labels, quality = batch(dtype=dtype, scale=1.0)
    logits.requires_grad_()
    options = {"quality": quality, "impl": impl}
    _, exact = reference(logits, labels, quality, TERMS[name])
    loss = dense_loss(logits, labels, TERMS[name], scale=1e-6, **options)
    (gradient,) = torch.autograd.grad(loss * loss_scale, logits)
    assert_rounded_once(gradient, exact * 1e-6 * loss_scale)
    per_anchor = dense_loss_per_anchor(logits, labels, TERMS[name], **options)
    (gradient,) = torch.autograd.grad(per_anchor.sum() * 1e-6 * loss_scale, logits)
    assert_rounded_once(gradient, exact * 1e-6 * loss_scale)


def assert_rounded_once(gradient, exact):
    """Compare with the nearest number of the dtype, which may be a neighbor in a near tie."""
    info = torch.finfo(gradient.dtype)
    spacing = (exact.abs() * info.eps).clamp(min=info.tiny * info.eps)
    assert (gradient.double() - exact).abs().le(0.51 * spacing + 1e-5 * exact.abs()).all()


@every_implementation
@pytest.mark.parametrize("upstream", [1.0, 2.5, -0.1])
def test_an_upstream_gradient_scales_the_gradient(upstream, impl):
    logits, labels, quality = batch()
    logits.requires_grad_()
    _, expected = reference(logits, labels, quality, FOCAL)
    loss = dense_loss(logits, labels, FOCAL, impl=impl) * upstream
    assert_close(torch.autograd.grad(loss, logits)[0], upstream * expected)


@every_implementation
def test_a_second_backward_pass_gives_the_same_gradient(impl):
    """The receiver of the first gradient may have changed it in place."""
    logits, labels, _ = batch()
    logits.requires_grad_()
    loss = dense_loss(logits, labels, FOCAL, impl=impl)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    expected = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(loss, logits, retain_graph=True)
    assert_close(second, expected)
    second.zero_()
    (scaled,) = torch.autograd.grad(3 * loss, logits, retain_graph=True)
    assert_close(scaled, 3 * expected)


@every_implementation
def test_gradients_accumulate_in_a_leaf(impl):
    logits, labels, _ = batch("rows")
    logits.requires_grad_()
    loss = dense_loss(logits, labels, FOCAL, impl=impl)
    (once,) = torch.autograd.grad(loss, logits, retain_graph=True)
    once = once.clone()
    for _ in range(3):
        loss.backward(retain_graph=True)
    assert_close(logits.grad, 3 * once)


@every_implementation
def test_a_loss_used_twice_counts_twice(impl):
    logits, labels, quality = batch()
    logits.requires_grad_()
    _, expected = reference(logits, labels, quality, FOCAL)
    loss = dense_loss(logits, labels, FOCAL, impl=impl)
    both = loss * 2 + dense_loss_per_anchor(logits, labels, FOCAL, impl=impl).sum() + loss
    assert_close(torch.autograd.grad(both, logits)[0], 4 * expected)


@every_implementation
def test_inputs_are_not_modified(impl):
    logits, labels, quality = batch()
    copies = [x.clone() for x in (logits, labels, quality)]
    logits.requires_grad_()
    loss = dense_loss(logits, labels, TERMS["quality"], quality=quality, impl=impl)
    loss.backward()
    for before, after in zip(copies, (logits, labels, quality), strict=True):
        assert torch.equal(before, after)
        assert after._version == 0 or after is logits


@every_implementation
def test_a_second_derivative_is_an_error(impl):
    logits, labels, _ = batch()
    logits.requires_grad_()
    loss = dense_loss(logits, labels, FOCAL, impl=impl)
    with pytest.raises(RuntimeError, match="once, not twice"):
        torch.autograd.grad(loss, logits, create_graph=True)


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_the_number_of_threads_does_not_change_the_bits(layout, impl):
    logits, labels, _ = batch(layout, (2, 61, 47, 3), 17)  # several chunks of "eager"
    logits.requires_grad_()

    def compute():
        slopes = torch.zeros(2, 17, dtype=torch.float64)
        loss = dense_loss(logits, labels, FOCAL, scale=0.01, impl=impl)
        dense_loss(logits, labels, FOCAL, slopes=slopes, impl=impl)
        of_anchors = dense_loss_per_anchor(logits, labels, FOCAL, impl=impl)
        return loss, torch.autograd.grad(loss, logits)[0], of_anchors, slopes

    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3) if impl == "cpp" else (1, 2):
            torch.set_num_threads(number)
            results.append(compute())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_a_custom_formula_is_used_without_a_kernel():
    """A new loss consists of two formulas."""

    class Linear(Formula):
        def value(self, at):
            return at.q

        def slope(self, at):
            return -at.q * at.p

    logits, labels, quality = batch()
    logits.requires_grad_()
    terms = Terms(Linear(), Linear(), negative_weight=0.75)
    expected, expected_gradient = reference(logits, labels, quality, terms)
    loss = dense_loss(logits, labels, terms)
    torch.testing.assert_close(loss.double(), expected.sum(), rtol=1e-6, atol=0)
    assert_close(torch.autograd.grad(loss, logits)[0], expected_gradient)
    reason = "Linear is not one of its formulas"
    with pytest.raises(ValueError, match=f"'cpp' is not available: {reason}"):
        dense_loss(logits, labels, terms, impl="cpp")


def test_an_implementation_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"one of .*'cpp'.*got 'cuda'"):
        dense_loss(*batch()[:2], FOCAL, impl="cuda")


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_auto_falls_back_where_cpp_is_not_available(dtype):
    logits, labels, _ = batch(dtype=dtype)
    with pytest.raises(ValueError, match=f"float32 and bfloat16, got {dtype}"):
        dense_loss(logits, labels, FOCAL, impl="cpp")
    auto = dense_loss(logits, labels, FOCAL)
    assert torch.equal(auto, dense_loss(logits, labels, FOCAL, impl="eager"))


@needs_extension
def test_auto_is_cpp_where_it_is_available():
    logits, labels, _ = batch(anchors=(2, 30, 30, 3))
    logits.requires_grad_()
    losses = [dense_loss(logits, labels, FOCAL, impl=impl) for impl in ("auto", "cpp")]
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    assert torch.equal(*gradients)
    eager = dense_loss(logits, labels, FOCAL, impl="eager")
    assert not torch.equal(gradients[0], torch.autograd.grad(eager, logits)[0])


def capability():
    return torch.backends.cpu.get_cpu_capability()


@needs_extension
@pytest.mark.parametrize("place", ["interpreter", "without_triton"])
def test_every_instruction_set_is_as_exact(place, request):
    """PyTorch's variable limits the instruction set, up to what the processor supports."""
    expected = {"interpreter": "AVX2", "without_triton": "DEFAULT"}[place]
    if capability() in ("DEFAULT", expected):
        pytest.skip(f"this processor supports at most {capability()}, which all tests here use")
    call = request.getfixturevalue(place)
    assert call(capability) == expected
    for gamma in (0.5, 1.0, 2.0, 5.0):
        call(test_the_gradient_is_exact_to_the_last_bits, gamma, "cpp")
    for name in TERMS:
        for layout in ("rows", "planes"):
            call(check_against_float64, name, layout, "cpp")
