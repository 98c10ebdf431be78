import math

import pytest
import torch
from torch.nn import functional as F

from focal_plugin.losses import (
    SoftmaxFocalLoss,
    sigmoid_focal_loss,
    softmax_cross_entropy_loss,
    softmax_focal_loss,
)

from ..each import each
from .regimes import (
    ALPHAS,
    GAMMAS,
    K,
    assert_value_and_gradient_match,
    random_batch,
    reference_softmax_sum,
)


@each("gamma", GAMMAS)
@each("alpha", ALPHAS)
def test_equals_equation_5_of_a_softmax_in_float64(alpha, gamma):
    logits, labels = random_batch(columns=K + 1, scale=3.0)
    reference = reference_softmax_sum(
        lambda p_c: -((1 - p_c) ** gamma) * p_c.log(), logits, labels, alpha
    )
    loss = softmax_focal_loss(logits, labels, alpha=alpha, gamma=gamma)
    assert_value_and_gradient_match(loss, reference, logits)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gamma_zero_is_softmax_cross_entropy(alpha):
    logits, labels = random_batch(columns=K + 1)
    focal = softmax_focal_loss(logits, labels, alpha=alpha, gamma=0.0)
    plain = softmax_cross_entropy_loss(logits, labels, alpha=alpha)
    torch.testing.assert_close(focal, plain, rtol=0, atol=0)


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_has_a_gradient_where_the_power_form_has_nan(gamma):
    logits = torch.tensor([[25.0, 0.0, -3.0], [-5.0, 0.0, 25.0]], requires_grad=True)
    labels = torch.tensor([0, 2])
    p_c = torch.softmax(logits, dim=-1).gather(-1, labels.unsqueeze(-1))
    naive = ((1 - p_c) ** gamma * F.cross_entropy(logits, labels, reduction="none")[:, None]).sum()
    assert naive.isfinite()
    assert torch.autograd.grad(naive, logits)[0].isnan().any()

    loss = softmax_focal_loss(logits, labels, alpha=None, gamma=gamma)
    reference = reference_softmax_sum(
        lambda p_c: -((1 - p_c) ** gamma) * p_c.log(), logits, labels, alpha=None
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    (expected,) = torch.autograd.grad(reference, logits)
    torch.testing.assert_close(loss.double(), reference, rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=0)


@each("alpha", ALPHAS)
@each("gamma", [0.5, 2.0])
def test_one_class_and_background_are_the_sigmoids_focal_loss_of_the_difference(alpha, gamma):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(50, 2, generator=generator) * 4).requires_grad_()
    labels = torch.randint(-1, 2, (50,), generator=generator)
    difference = logits[:, :1] - logits[:, 1:]
    binary = sigmoid_focal_loss(difference, labels, alpha=alpha, gamma=gamma)
    loss = softmax_focal_loss(logits, labels, alpha=alpha, gamma=gamma)
    assert_value_and_gradient_match(loss, binary.double(), logits)


def test_a_shift_of_all_logits_of_an_anchor_changes_nothing():
    logits, labels = random_batch(columns=K + 1)
    shifted = logits + torch.linspace(-200, 200, len(labels)).unsqueeze(-1)  # exp(200) is inf
    torch.testing.assert_close(
        softmax_focal_loss(shifted, labels), softmax_focal_loss(logits, labels)
    )


def test_the_gradients_of_an_anchor_sum_to_zero():
    logits, labels = random_batch(columns=K + 1)
    loss = softmax_focal_loss(logits, labels, alpha=None, gamma=0.5)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(len(labels)), rtol=0, atol=1e-6)


def test_audit_at_initialization():
    """100k background anchors at p(background) = .99, of 80 classes: CE 1.0e3, FL(.25, 2) .075."""
    logits = torch.zeros(100_000, 81)
    logits[:, -1] = math.log(80 * 99)
    labels = torch.full((100_000,), 80)
    cross_entropy = softmax_cross_entropy_loss(logits, labels)
    assert cross_entropy.item() == pytest.approx(-1e5 * math.log(0.99), rel=1e-4)
    expected = -1e5 * 0.75 * 0.01**2 * math.log(0.99)
    assert softmax_focal_loss(logits, labels).item() == pytest.approx(expected, rel=1e-4)


CLASS_ALPHA = [0.0, 0.25, 0.5, 0.75, 1.0, 0.1]


@each("gamma", GAMMAS)
def test_a_class_alpha_weights_the_anchors_of_its_class_in_float64(gamma):
    logits, labels = random_batch(columns=K + 1, scale=3.0)
    weights = torch.tensor(CLASS_ALPHA, dtype=torch.float64)[labels[labels >= 0]]
    x = logits.double()[labels >= 0]
    p_c = torch.softmax(x, dim=-1)[torch.arange(len(x)), labels[labels >= 0]]
    reference = (-weights * (1 - p_c) ** gamma * p_c.log()).sum()
    loss = softmax_focal_loss(logits, labels, gamma=gamma, class_alpha=CLASS_ALPHA)
    assert_value_and_gradient_match(loss, reference, logits)


def test_the_module_takes_the_same_class_alpha():
    logits, labels = random_batch(columns=K + 1)
    options = {"class_alpha": CLASS_ALPHA, "gamma": 0.5}
    torch.testing.assert_close(
        SoftmaxFocalLoss(**options)(logits, labels), softmax_focal_loss(logits, labels, **options)
    )


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_equal_alphas_and_their_complement_for_background_are_one_alpha(alpha):
    logits, labels = random_batch(columns=K + 1)
    loss = softmax_focal_loss(logits, labels, alpha=None, class_alpha=[alpha] * K + [1 - alpha])
    torch.testing.assert_close(loss, softmax_focal_loss(logits, labels, alpha=alpha))


@pytest.mark.parametrize("count", [K, K + 2])
def test_the_number_of_alphas_must_be_that_of_classes_and_background(count):
    logits, labels = random_batch(columns=K + 1)
    message = f"must be {K + 1} numbers.* got {count}"
    with pytest.raises(ValueError, match=f"class_alpha {message}"):
        softmax_focal_loss(logits, labels, class_alpha=[0.5] * count)
    with pytest.raises(ValueError, match=rf"MODEL.FOCAL.CLS_LOSS.CLASS_ALPHA\) {message}"):
        SoftmaxFocalLoss(class_alpha=[0.5] * count)(logits, labels)


def test_the_weights_of_the_classes_are_not_in_a_checkpoint():
    assert SoftmaxFocalLoss(class_alpha=CLASS_ALPHA).state_dict() == {}
