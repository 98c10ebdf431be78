import functools

import pytest
import torch

from focal_plugin.losses import poly_focal_loss, sigmoid_cross_entropy_loss, sigmoid_focal_loss
from focal_plugin.losses.poly_focal import PolyFocal
from focal_plugin.ops import apply_formula

from ..each import each
from .regimes import (
    ALPHAS,
    GAMMAS,
    assert_value_and_gradient_match,
    random_batch,
    reference_sum,
)

EPSILONS = [-1.0, 0.5, 2.0]


@each("epsilon", EPSILONS)
@each("gamma", GAMMAS)
@each("alpha", ALPHAS)
def test_equals_focal_loss_and_a_term_without_alpha_in_float64(alpha, gamma, epsilon):
    logits, labels = random_batch()
    focal = reference_sum(lambda p_t, x_t: -((1 - p_t) ** gamma) * p_t.log(), logits, labels, alpha)
    term = reference_sum(lambda p_t, x_t: (1 - p_t) ** (gamma + 1), logits, labels, None)
    loss = poly_focal_loss(logits, labels, alpha=alpha, gamma=gamma, epsilon=epsilon)
    assert_value_and_gradient_match(loss, focal + epsilon * term, logits)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_epsilon_zero_is_focal_loss(alpha):
    logits, labels = random_batch()
    poly = poly_focal_loss(logits, labels, alpha=alpha, epsilon=0.0)
    torch.testing.assert_close(poly, sigmoid_focal_loss(logits, labels, alpha=alpha))


def test_gamma_zero_without_alpha_is_poly_1_cross_entropy():
    logits, labels = random_batch()
    error = reference_sum(lambda p_t, x_t: 1 - p_t, logits, labels, None)
    expected = sigmoid_cross_entropy_loss(logits, labels).double() + 2 * error
    poly = poly_focal_loss(logits, labels, alpha=None, gamma=0.0, epsilon=2.0)
    assert_value_and_gradient_match(poly, expected, logits)


def test_alpha_does_not_weight_the_added_term():
    logits, labels = random_batch()
    terms = [
        poly_focal_loss(logits, labels, alpha=alpha, epsilon=1.0)
        - poly_focal_loss(logits, labels, alpha=alpha, epsilon=0.0)
        for alpha in ALPHAS
    ]
    assert terms[0] > 1
    torch.testing.assert_close(torch.stack(terms), terms[0].expand(len(ALPHAS)), rtol=1e-5, atol=0)


@each("epsilon", EPSILONS)
@each("gamma", [0.0, 0.5, 2.0])
def test_an_easy_example_has_one_plus_epsilon_times_its_focal_loss(gamma, epsilon):
    """-log(p_t) = (1 - p_t) + (1 - p_t)^2 / 2 + ...: epsilon changes the first coefficient."""
    x_t = torch.tensor(14.0, dtype=torch.float64)
    with_epsilon, without = (apply_formula(PolyFocal(gamma, 1.0, x), x_t) for x in (epsilon, 0.0))
    ratio = with_epsilon / without
    assert ratio.item() == pytest.approx(1 + epsilon, abs=1e-5)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradcheck(gamma, epsilon):
    x_t = torch.linspace(-9, 9, 19, dtype=torch.float64, requires_grad=True)
    poly = functools.partial(apply_formula, PolyFocal(gamma, alpha_t=0.25, epsilon=epsilon))
    assert torch.autograd.gradcheck(poly, x_t)
