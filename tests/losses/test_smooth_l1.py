import pytest
import torch
from fvcore.nn import smooth_l1_loss as fvcore_smooth_l1_loss

from focal_plugin.losses import l1_loss, smooth_l1_loss
from focal_plugin.losses.smooth_l1 import smooth_l1_of_errors

from ..each import each
from .box_regimes import assert_value_and_gradient_match, delta_pair

BETAS = (0.01, 0.1, 1 / 9, 1.0, 3.0)


@pytest.mark.parametrize("beta", BETAS)
def test_equals_its_two_branches_in_float64(beta):
    pred, target = delta_pair()
    error = (pred.double() - target.double()).abs()
    reference = torch.where(error < beta, error**2 / (2 * beta), error - beta / 2).sum()
    assert_value_and_gradient_match(smooth_l1_loss(pred, target, beta=beta), reference, pred)


@each("beta", [0.0, 1e-6, *BETAS])
def test_equals_fvcores(beta):
    pred, target = delta_pair()
    expected = fvcore_smooth_l1_loss(pred, target, beta=beta, reduction="sum")
    assert_value_and_gradient_match(smooth_l1_loss(pred, target, beta=beta), expected, pred)


def test_l1_is_the_sum_of_absolute_errors_in_float64():
    pred, target = delta_pair()
    reference = (pred.double() - target.double()).abs().sum()
    assert_value_and_gradient_match(l1_loss(pred, target), reference, pred)


def test_beta_zero_is_l1():
    pred, target = delta_pair()
    loss = smooth_l1_loss(pred, target, beta=0.0)
    torch.testing.assert_close(loss, l1_loss(pred, target), rtol=0, atol=0)


def test_far_above_beta_it_is_l1_less_half_of_beta():
    loss = smooth_l1_loss(torch.full((1, 4), 5.0), torch.zeros(1, 4), beta=0.5)
    assert loss.item() == pytest.approx(4 * (5 - 0.25))


def test_an_exact_prediction_has_no_gradient():
    for beta in (0.0, 0.1):
        pred = torch.zeros(1, 4, requires_grad=True)
        smooth_l1_loss(pred, torch.zeros(1, 4), beta=beta).backward()
        assert (pred.grad == 0).all()


@pytest.mark.parametrize("beta", BETAS)
def test_gradcheck(beta):
    errors = torch.linspace(0.004, 4, 37, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: smooth_l1_of_errors(d, beta=beta), errors)
