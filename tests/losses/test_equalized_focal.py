import pytest
import torch

from focal_plugin.losses import EqualizedFocalLoss, equalized_focal_loss, sigmoid_focal_loss

from ..each import each
from .regimes import (
    ALPHAS,
    K,
    assert_value_and_gradient_match,
    gradient_norms_per_class,
    random_batch,
    reference_sum,
)

RATIO = torch.tensor([0.0, 0.1, 0.5, 1.0, 30.0])  # the last is clamped to 1


def _reference(logits, labels, ratio, alpha, gamma, scale):
    """Compute one gamma_j per column, in float64 and as a power."""
    gamma_j = gamma + scale * (1 - ratio.double().clamp(max=1))
    return reference_sum(
        lambda p_t, x_t: -gamma_j / gamma * (1 - p_t) ** gamma_j * p_t.log(), logits, labels, alpha
    )


@pytest.mark.parametrize(("gamma", "scale"), [(2.0, 8.0), (0.5, 1.0), (1.0, 0.3)])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_equals_its_definition_in_float64(alpha, gamma, scale):
    logits, labels = random_batch()
    options = {"alpha": alpha, "gamma": gamma, "scale": scale}
    loss = equalized_focal_loss(logits, labels, gradient_ratio=RATIO, **options)
    assert_value_and_gradient_match(loss, _reference(logits, labels, RATIO, **options), logits)


@each("gamma", [0.5, 2.0])
@each("alpha", ALPHAS)
def test_balanced_classes_make_it_focal_loss(alpha, gamma):
    logits, labels = random_batch()
    focal = sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma)
    for options in (
        {"gradient_ratio": torch.ones(K)},
        {"gradient_ratio": None},
        {"gradient_ratio": RATIO, "scale": 0.0},
    ):
        loss = equalized_focal_loss(logits, labels, alpha=alpha, gamma=gamma, **options)
        torch.testing.assert_close(loss, focal)


def test_gamma_grows_as_the_ratio_falls():
    loss = EqualizedFocalLoss(num_classes=4, gamma=2.0, scale=8.0)
    loss.gradients.add(torch.tensor([0.0, 1.0, 5.0, 70.0]), torch.tensor([3.0, 2.0, 5.0, 10.0]))
    assert loss.gamma_of_classes.tolist() == [10.0, 6.0, 2.0, 2.0]


def test_a_class_of_larger_gamma_has_more_weight_where_it_is_wrong():
    """(gamma_j / gamma) compensates the exponent's reduction of a hard example."""
    logits, label = torch.full((1, K), -8.0), torch.tensor([0])
    focal = sigmoid_focal_loss(logits, label, alpha=1.0)
    rare = equalized_focal_loss(logits, label, gradient_ratio=torch.zeros(K), alpha=1.0)
    assert (rare / focal).item() == pytest.approx(10 / 2, rel=0.01)


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_it_collects_autograds_gradients_and_uses_them_from_the_next_step_on(alpha):
    loss = EqualizedFocalLoss(num_classes=K, alpha=alpha, gamma=1.5, scale=4.0).train()
    ratio, positive, negative = torch.ones(K).double(), 0, 0
    for seed in range(3):
        logits, labels = random_batch(seed=seed, scale=1.0)
        reference = _reference(logits, labels, ratio, alpha, gamma=1.5, scale=4.0)
        assert_value_and_gradient_match(loss(logits, labels), reference, logits)

        exact = logits.detach().double().requires_grad_()
        reference = _reference(exact, labels, ratio, alpha, gamma=1.5, scale=4.0)
        step = gradient_norms_per_class(reference, exact, labels)
        positive, negative = positive + step[0], negative + step[1]
        torch.testing.assert_close(loss.gradients.positive, positive, rtol=1e-5, atol=0)
        torch.testing.assert_close(loss.gradients.negative, negative, rtol=1e-5, atol=0)
        ratio = positive / negative
        assert ((ratio > 0.01) & (ratio < 1)).any()


def test_a_class_never_seen_has_the_largest_gamma_after_a_step():
    loss = EqualizedFocalLoss(num_classes=K).train()
    logits, labels = random_batch()
    assert loss.gamma_of_classes.tolist() == [2.0] * K
    loss(logits, labels.masked_fill(labels == 3, K))
    assert loss.gamma_of_classes[3].item() == 10.0
    assert (loss.gamma_of_classes < 10).sum() == K - 1


def test_is_finite_where_the_logarithm_of_one_minus_p_is_not():
    logits = torch.tensor([[17.0]], requires_grad=True)
    naive = -torch.log(1 - torch.sigmoid(logits))
    assert naive.isinf().all()

    loss = equalized_focal_loss(logits, torch.tensor([1]), alpha=None)
    assert loss.item() == pytest.approx(17)
    assert torch.autograd.grad(loss, logits)[0].item() == pytest.approx(1, abs=1e-5)
