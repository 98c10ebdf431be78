import functools
import math

import pytest
import torch

from focal_plugin.losses import asymmetric_loss, sigmoid_focal_loss
from focal_plugin.losses.asymmetric import AsymmetricNegative
from focal_plugin.ops import apply_formula

from ..each import each
from .regimes import GAMMAS, K, assert_value_and_gradient_match, one_hot, random_batch

CLIPS = [0.0, 0.05, 0.3]


@each("clip", CLIPS)
@each(("gamma_pos", "gamma_neg"), [(1.0, 4.0), (0.0, 0.0), (0.5, 0.2), (2.0, 1.0), (5.0, 0.0)])
def test_equals_equation_7_in_float64(gamma_pos, gamma_neg, clip):
    logits, labels = random_batch()
    reference = _reference(logits, labels, gamma_pos, gamma_neg, clip)
    loss = asymmetric_loss(logits, labels, gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip)
    assert_value_and_gradient_match(loss, reference, logits)


def _reference(logits, labels, gamma_pos, gamma_neg, clip):
    """Leave out negatives with p <= clip. They are not clamped; see the power form below."""
    keep = labels >= 0
    p, y = torch.sigmoid(logits.double())[keep], one_hot(labels)[keep]
    positives, p_m = p[y == 1], p[y == 0] - clip
    p_m = p_m[p_m > 0]
    positive = -((1 - positives) ** gamma_pos) * positives.log()
    negative = -(p_m**gamma_neg) * (1 - p_m).log()
    return positive.sum() + negative.sum()


@each("gamma", GAMMAS)
def test_one_gamma_and_no_clip_is_focal_loss_without_alpha(gamma):
    logits, labels = random_batch()
    loss = asymmetric_loss(logits, labels, gamma_pos=gamma, gamma_neg=gamma, clip=0.0)
    focal = sigmoid_focal_loss(logits, labels, alpha=None, gamma=gamma)
    torch.testing.assert_close(loss, focal)


@each("gamma_neg", GAMMAS)
def test_a_negative_below_the_clip_has_neither_loss_nor_gradient(gamma_neg):
    threshold = math.log(0.05 / 0.95)
    logits = (threshold + torch.tensor([[-1e-2], [1e-2]])).requires_grad_()
    background = torch.tensor([1, 1])
    options = {"gamma_neg": gamma_neg, "clip": 0.05}
    below, above = (
        asymmetric_loss(row[None], label[None], **options)
        for row, label in zip(logits, background, strict=True)
    )
    (gradient,) = torch.autograd.grad(below + above, logits)
    assert below.item() == 0
    assert gradient[0].item() == 0
    assert above.item() > 0
    assert gradient[1].item() > 0


def test_a_positive_below_the_clip_keeps_its_loss():
    logits = torch.tensor([[-6.0]])
    values = [asymmetric_loss(logits, torch.tensor([0]), clip=clip).item() for clip in CLIPS]
    assert values == pytest.approx([values[0]] * len(CLIPS), rel=1e-6)
    assert values[0] > 5


@pytest.mark.parametrize("gamma_neg", [0.0, 0.5, 4.0])
def test_the_hardest_negative_has_the_loss_minus_log_of_the_clip(gamma_neg):
    """p_m ends at 1 - clip: a wrong label costs 3 at clip .05, and has no gradient."""
    logits = torch.tensor([[30.0]], requires_grad=True)
    loss = asymmetric_loss(logits, torch.tensor([1]), gamma_neg=gamma_neg, clip=0.05)
    assert loss.item() == pytest.approx(0.95**gamma_neg * -math.log(0.05))
    assert torch.autograd.grad(loss, logits)[0].abs() < 1e-10


@pytest.mark.parametrize("gamma_neg", [0.1, 0.5, 0.9])
def test_has_a_gradient_where_a_masked_power_has_nan(gamma_neg):
    threshold = math.log(0.05 / 0.95)
    logits = torch.linspace(threshold - 1e-5, threshold + 1e-5, 401).unsqueeze(-1)
    logits = torch.cat([logits, torch.tensor([[-9.0], [9.0]])]).requires_grad_()
    p = torch.sigmoid(logits)
    p_m = (p - 0.05) * (p > 0.05)
    naive = -(p_m**gamma_neg) * (1 - p_m).log()
    assert torch.autograd.grad(naive.sum(), logits)[0].isnan().any()

    background = torch.ones(len(logits), dtype=torch.int64)
    loss = asymmetric_loss(logits, background, gamma_neg=gamma_neg, clip=0.05)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert gradient[-2] == 0
    assert gradient[-1] > 0


def test_a_hard_positive_has_a_gradient_where_a_clamped_logarithm_has_none():
    logits = torch.tensor([[-25.0]], requires_grad=True)
    p = torch.sigmoid(logits)
    clamped = -(1 - p) * p.clamp(min=1e-8).log()
    assert torch.autograd.grad(clamped.sum(), logits)[0].item() == pytest.approx(-2.6e-10, rel=0.02)

    loss = asymmetric_loss(logits, torch.tensor([0]), gamma_pos=1.0)
    assert torch.autograd.grad(loss, logits)[0].item() == pytest.approx(-1)


def test_each_gamma_focuses_its_own_side():
    positives = torch.zeros(1, K, requires_grad=True)
    label = torch.tensor([1])
    (plain,) = torch.autograd.grad(
        asymmetric_loss(positives, label, gamma_pos=0.0, gamma_neg=0.0, clip=0.0), positives
    )
    for option, columns in (("gamma_pos", [1]), ("gamma_neg", [0, 2, 3, 4])):
        gammas = {"gamma_pos": 0.0, "gamma_neg": 0.0, option: 3.0}
        loss = asymmetric_loss(positives, label, clip=0.0, **gammas)
        (gradient,) = torch.autograd.grad(loss, positives)
        assert (gradient != plain).nonzero()[:, 1].tolist() == columns


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradcheck(gamma, clip):
    x = torch.linspace(-7, 7, 16, dtype=torch.float64, requires_grad=True)
    negative = functools.partial(apply_formula, AsymmetricNegative(gamma, clip))
    assert torch.autograd.gradcheck(negative, x)
