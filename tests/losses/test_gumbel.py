import math

import torch

from focal_plugin.losses import GumbelLoss, gumbel_loss
from focal_plugin.losses.gumbel import Gumbel, GumbelComplement
from focal_plugin.ops import apply_formula

from ..each import each
from .regimes import (
    assert_equals_published,
    assert_value_and_gradient_match,
    formula_sum,
    one_hot,
    random_batch,
)

LOGITS = [
    [1.2, -0.7, 0.3], [-0.4, 0.9, -1.5], [0.1, -2.0, 0.8],
    [-0.9, 0.45, -0.2], [2.0, 1.0, -1.0], [0.6, -0.3, 1.7],
]  # fmt: skip
LABELS = torch.tensor([0, 1, 3, 2, -1, 3])
PUBLISHED = {
    "value": 8.31497287088,
    "gradient": [
        [-0.301194211912, 0.31021962175, 0.674912259633],
        [0.433015504075, -0.406569659741, 0.051287393872],
        [0.614895638263, 0.00456910503104, 0.792103884383],
        [0.229865863033, 0.714839347423, -1.22140275816],
        [0.0, 0.0, 0.0],
        [0.750568599265, 0.472493898313, 0.911437798122],
    ],
}


@each(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-6)])
def test_value_and_gradient_are_those_of_the_definition(dtype, tolerance):
    logits = torch.tensor(LOGITS, dtype=dtype, requires_grad=True)
    loss = formula_sum(GumbelLoss().terms(logits), logits, LABELS)
    assert_equals_published(loss, PUBLISHED, logits, tolerance)
    if dtype == torch.float32:
        loss = gumbel_loss(logits, LABELS)
        assert_equals_published(loss, PUBLISHED, logits, tolerance)


def test_equals_the_cross_entropy_of_the_gumbel_probability():
    logits, labels = random_batch()
    keep = labels >= 0
    x, y = logits.double()[keep].clamp(-4, 10), one_hot(labels)[keep]
    u = torch.exp(-x)
    reference = (y * u - (1 - y) * torch.log(-torch.expm1(-u))).sum()
    assert_value_and_gradient_match(gumbel_loss(logits, labels), reference, logits)


def test_beyond_its_limits_the_loss_is_constant():
    limits = torch.tensor([[-4.0], [10.0]])
    beyond = torch.tensor([[-4.5], [1e6]], requires_grad=True)
    for label in (0, 1):
        labels = torch.full((2,), label)
        loss = gumbel_loss(beyond, labels)
        torch.testing.assert_close(loss, gumbel_loss(limits, labels))
        assert not torch.autograd.grad(loss, beyond)[0].any()


def test_the_gradient_is_exact_at_small_probabilities():
    """A cross entropy in float32 damps it where p is below 1e-12."""
    x = torch.linspace(-3.9, 9.9, 301).unsqueeze(1).requires_grad_()
    u = torch.exp(-x.detach().double())
    for label, expected in ((0, -u), (1, u / torch.expm1(u))):
        loss = gumbel_loss(x, torch.full((301,), label))
        (gradient,) = torch.autograd.grad(loss, x)
        is_kept = expected.abs() > 1e-20  # smaller slopes are flushed
        torch.testing.assert_close(gradient.double()[is_kept], expected[is_kept], rtol=2e-5, atol=0)


def test_gradcheck():
    x_t = torch.linspace(-3.9, 3.9, 19, dtype=torch.float64, requires_grad=True)
    for formula in (Gumbel(), GumbelComplement()):
        assert torch.autograd.gradcheck(lambda x, f=formula: apply_formula(f, x), x_t)


def test_the_sigmoid_of_the_decoded_logit_is_the_probability():
    x = torch.linspace(-3, 30, 331)
    expected = torch.exp(-torch.exp(-x.double()))
    decoded = torch.sigmoid(GumbelLoss.sigmoid_logits(x).double())
    torch.testing.assert_close(decoded, expected, rtol=1e-5, atol=0)
    complement = torch.sigmoid(-GumbelLoss.sigmoid_logits(x).double())
    torch.testing.assert_close(complement, -torch.expm1(-torch.exp(-x.double())), rtol=1e-5, atol=0)


@each("dtype", [torch.float32, torch.float16])
def test_decoded_logits_are_finite_and_keep_the_order(dtype):
    x = torch.tensor([-6e4, -1e3, -80.0, -10.0, -1.0, 0.0, 1.0, 17.0, 79.0, 6e4]).to(dtype)
    decoded = GumbelLoss.sigmoid_logits(x)
    assert decoded.dtype == torch.float32
    assert decoded.isfinite().all()
    assert (decoded.diff() >= 0).all()


@each("prior", [1e-6, 0.01, 0.5, 0.9])
def test_a_fresh_classifier_predicts_the_prior(prior):
    assert math.isclose(math.exp(-math.exp(-GumbelLoss.bias_of(prior))), prior, rel_tol=1e-9)
