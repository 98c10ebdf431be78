import functools

import pytest
import torch
from torch.nn import functional as F

from focal_plugin.losses import quality_focal_loss, sigmoid_cross_entropy_loss, sigmoid_focal_loss
from focal_plugin.losses.quality_focal import QualityFocal
from focal_plugin.ops import apply_formula

from ..each import each
from .regimes import (
    K,
    assert_value_and_gradient_match,
    one_hot,
    random_batch,
    random_quality,
)

BETAS = [0.0, 1.0, 1.5, 2.0, 5.0]


@pytest.mark.parametrize("beta", BETAS)
def test_equals_its_definition_in_float64(beta):
    logits, labels = random_batch()
    quality = random_quality(labels)
    keep = labels >= 0
    x, y = logits.double()[keep], (one_hot(labels) * quality.double().unsqueeze(-1))[keep]
    p = torch.sigmoid(x)
    reference = -((y - p).abs() ** beta) * (y * p.log() + (1 - y) * (1 - p).log())
    loss = quality_focal_loss(logits, labels, quality, beta=beta)
    assert_value_and_gradient_match(loss, reference.sum(), logits)


@pytest.mark.parametrize("beta", BETAS)
def test_perfect_boxes_make_it_focal_loss_without_alpha(beta):
    logits, labels = random_batch()
    loss = quality_focal_loss(logits, labels, torch.ones(labels.shape), beta=beta)
    focal = sigmoid_focal_loss(logits, labels, alpha=None, gamma=beta)
    assert_value_and_gradient_match(loss, focal.double(), logits)


def test_useless_boxes_make_every_anchor_background():
    logits, labels = random_batch()
    loss = quality_focal_loss(logits, labels, torch.zeros(labels.shape))
    background = labels.masked_fill(labels >= 0, K)
    as_background = sigmoid_focal_loss(logits, background, alpha=None, gamma=2.0)
    torch.testing.assert_close(loss, as_background)


def test_beta_zero_is_cross_entropy_with_soft_targets():
    logits, labels = random_batch()
    quality = random_quality(labels)
    soft = one_hot(labels) * quality.double().unsqueeze(-1)
    keep = labels >= 0
    expected = F.binary_cross_entropy_with_logits(
        logits.double()[keep], soft[keep], reduction="sum"
    )
    loss = quality_focal_loss(logits, labels, quality, beta=0.0)
    assert_value_and_gradient_match(loss, expected, logits)


@each("quality", [0.1, 0.5, 0.8])
@each("beta", [1.5, 2.0, 5.0])
def test_a_positive_has_no_loss_where_its_score_is_its_quality(beta, quality):
    """The minimum is 0. Cross entropy with a soft target has a minimum above 0."""
    target = torch.tensor(quality, dtype=torch.float64)
    x = (torch.logit(target) + torch.tensor([-0.1, 0.0, 0.1])).requires_grad_()
    loss = apply_formula(QualityFocal(beta), x, target)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert loss[1].item() == pytest.approx(0, abs=1e-20)
    assert gradient[1].item() == pytest.approx(0, abs=1e-7)
    assert (loss[[0, 2]] > 0).all()
    assert gradient[0] < 0 < gradient[2]


def test_a_score_above_the_quality_is_pulled_down():
    logits = torch.tensor([[2.0, 2.0]], requires_grad=True)
    loss = quality_focal_loss(logits, torch.tensor([0]), torch.tensor([0.5]))
    (gradient,) = torch.autograd.grad(loss, logits)
    plain = torch.autograd.grad(sigmoid_cross_entropy_loss(logits, torch.tensor([0])), logits)[0]
    assert plain[0, 0] < 0 < gradient[0, 0] < gradient[0, 1]


def test_a_beta_between_zero_and_one_would_have_no_gradient_where_the_score_is_the_quality():
    x = torch.zeros(1, requires_grad=True)  # p = .5
    for beta, is_finite in ((0.0, True), (0.5, False), (1.0, True)):
        loss = apply_formula(QualityFocal(beta), x, torch.tensor([0.5]))
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert gradient.isfinite().item() == is_finite, beta


@pytest.mark.parametrize("beta", BETAS)
def test_gradcheck(beta):
    x = torch.linspace(-9, 9, 20, dtype=torch.float64, requires_grad=True)
    target = torch.linspace(0, 1, 20, dtype=torch.float64)
    loss = functools.partial(apply_formula, QualityFocal(beta), quality=target)
    assert torch.autograd.gradcheck(loss, x)
