import itertools
import math

import pytest
import torch

from focal_plugin.losses import balanced_l1_loss
from focal_plugin.losses.balanced_l1 import balanced_l1_of_errors

from .box_regimes import assert_value_and_gradient_match, delta_pair

OPTIONS = [(0.5, 1.5, 1.0), (0.5, 1.5, 0.11), (0.3, 1.0, 2.0), (1.5, 0.5, 0.5)]


def _published_form(error, alpha, gamma, beta):
    """Compute the form published for beta = 1, with beta where other implementations have it."""
    b = math.exp(gamma / alpha) - 1
    curve = alpha / b * (b * error + 1) * torch.log(b * error / beta + 1) - alpha * error
    return torch.where(error < beta, curve, gamma * error + gamma / b - alpha * beta)


@pytest.mark.parametrize(("alpha", "gamma", "beta"), OPTIONS)
def test_equals_its_two_branches_in_float64(alpha, gamma, beta):
    pred, target = delta_pair()
    error = (pred.double() - target.double()).abs()
    b = math.exp(gamma / alpha) - 1
    curve = alpha / b * (b * error + beta) * torch.log(b * error / beta + 1) - alpha * error
    line = gamma * error + gamma * beta / b - alpha * beta
    reference = torch.where(error < beta, curve, line).sum()
    loss = balanced_l1_loss(pred, target, alpha=alpha, gamma=gamma, beta=beta)
    assert_value_and_gradient_match(loss, reference, pred)


def test_at_beta_one_it_is_the_published_form():
    pred, target = delta_pair()
    error = (pred.double() - target.double()).abs()
    reference = _published_form(error, alpha=0.5, gamma=1.5, beta=1.0).sum()
    assert_value_and_gradient_match(balanced_l1_loss(pred, target), reference, pred)


def _gradient(of_error, error):
    error = torch.tensor(error, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(of_error(error), error)[0].item()


def test_has_no_kink_at_zero_error_where_the_published_form_has_one():
    options = {"alpha": 0.5, "gamma": 1.5, "beta": 0.11}
    published = _gradient(lambda d: _published_form(d, **options), 0.0)
    assert published == pytest.approx(4.05, abs=5e-3)
    assert published > options["gamma"]
    assert _gradient(lambda d: balanced_l1_of_errors(d, **options), 0.0) == 0


@pytest.mark.parametrize(("alpha", "gamma", "beta"), OPTIONS)
def test_the_gradient_grows_from_zero_to_gamma_at_beta_and_stays_there(alpha, gamma, beta):
    def gradient(error):
        return _gradient(
            lambda d: balanced_l1_of_errors(d, alpha=alpha, gamma=gamma, beta=beta), error
        )

    rising = [gradient(beta * part) for part in (0.0, 0.1, 0.4, 0.9, 1 - 1e-9)]
    assert rising[0] == 0
    assert all(smaller < larger for smaller, larger in itertools.pairwise(rising))
    assert rising[-1] == pytest.approx(gamma)
    assert gradient(beta * (1 + 1e-9)) == pytest.approx(gamma)
    assert gradient(beta * 9) == pytest.approx(gamma)


def test_a_small_alpha_that_overflows_is_refused():
    with pytest.raises(ValueError, match="alpha must be >= gamma / 80"):
        balanced_l1_loss(*delta_pair(), alpha=0.01)


@pytest.mark.parametrize(("alpha", "gamma", "beta"), OPTIONS)
def test_gradcheck(alpha, gamma, beta):
    errors = torch.linspace(0.004, 4, 37, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda d: balanced_l1_of_errors(d, alpha=alpha, gamma=gamma, beta=beta), errors
    )
