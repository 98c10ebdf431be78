import pytest
import torch
from fvcore.nn.focal_loss import sigmoid_focal_loss_star as fvcore_focal_loss_star

from focal_plugin.losses import sigmoid_cross_entropy_loss, sigmoid_focal_star_loss
from focal_plugin.losses.sigmoid_focal_star import FocalStar
from focal_plugin.ops import apply_formula

from ..each import each
from .regimes import (
    ALPHAS,
    assert_value_and_gradient_match,
    one_hot,
    random_batch,
    reference_sum,
)

GAMMA_BETA = [(2.0, 1.0), (4.0, 0.0), (0.5, -1.0), (1.0, 0.0)]


@each(("gamma", "beta"), GAMMA_BETA)
@each("alpha", ALPHAS)
def test_equals_minus_log_p_star_over_gamma_in_float64(alpha, gamma, beta):
    logits, labels = random_batch(scale=2.0)
    reference = reference_sum(
        lambda p_t, x_t: -torch.sigmoid(gamma * x_t + beta).log() / gamma, logits, labels, alpha
    )
    loss = sigmoid_focal_star_loss(logits, labels, alpha=alpha, gamma=gamma, beta=beta)
    assert_value_and_gradient_match(loss, reference, logits)


def test_gradient_is_p_star_minus_one():
    x_t = torch.linspace(-6, 6, 13, dtype=torch.float64, requires_grad=True)
    loss = apply_formula(FocalStar(gamma=2.0, beta=1.0), x_t)
    (gradient,) = torch.autograd.grad(loss.sum(), x_t)
    torch.testing.assert_close(gradient, torch.sigmoid(2 * x_t + 1) - 1)


def test_slope_one_and_no_shift_is_cross_entropy():
    logits, labels = random_batch()
    star = sigmoid_focal_star_loss(logits, labels, alpha=0.75, gamma=1.0, beta=0.0)
    torch.testing.assert_close(star, sigmoid_cross_entropy_loss(logits, labels, alpha=0.75))


@pytest.mark.parametrize("gamma", [1.0, 2.0, 4.0])
def test_equals_fvcores_at_beta_zero(gamma):
    logits, labels = random_batch()
    keep = labels >= 0
    expected = fvcore_focal_loss_star(
        logits[keep], one_hot(labels)[keep].float(), alpha=0.25, gamma=gamma, reduction="sum"
    )
    loss = sigmoid_focal_star_loss(logits, labels, alpha=0.25, gamma=gamma, beta=0.0)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_a_slope_of_zero_is_refused():
    with pytest.raises(ValueError, match="gamma must be > 0"):
        sigmoid_focal_star_loss(*random_batch(), gamma=0.0)


@pytest.mark.parametrize(("gamma", "beta"), GAMMA_BETA)
def test_gradcheck(gamma, beta):
    x_t = torch.linspace(-4, 4, 17, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: apply_formula(FocalStar(gamma, beta), x), x_t)
