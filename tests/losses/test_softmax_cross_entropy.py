import math

import pytest
import torch
from torch.nn import functional as F

from focal_plugin.losses import sigmoid_cross_entropy_loss, softmax_cross_entropy_loss

from .regimes import (
    ALPHAS,
    K,
    assert_value_and_gradient_match,
    random_batch,
    reference_softmax_sum,
)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_equals_minus_log_p_c_in_float64(alpha):
    logits, labels = random_batch(columns=K + 1)
    reference = reference_softmax_sum(lambda p_c: -p_c.log(), logits, labels, alpha)
    loss = softmax_cross_entropy_loss(logits, labels, alpha=alpha)
    assert_value_and_gradient_match(loss, reference, logits)


def test_equals_pytorchs_cross_entropy():
    logits, labels = random_batch(columns=K + 1)
    expected = F.cross_entropy(logits.double(), labels, ignore_index=-1, reduction="sum")
    assert_value_and_gradient_match(softmax_cross_entropy_loss(logits, labels), expected, logits)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_one_class_and_background_are_binary_cross_entropy_of_the_difference(alpha):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(50, 2, generator=generator) * 4).requires_grad_()
    labels = torch.randint(-1, 2, (50,), generator=generator)
    difference = logits[:, :1] - logits[:, 1:]
    binary = sigmoid_cross_entropy_loss(difference, labels, alpha=alpha)
    loss = softmax_cross_entropy_loss(logits, labels, alpha=alpha)
    assert_value_and_gradient_match(loss, binary.double(), logits)


def test_a_shift_of_all_logits_of_an_anchor_changes_nothing():
    logits, labels = random_batch(columns=K + 1)
    shift = torch.linspace(-200, 200, len(labels)).unsqueeze(-1)  # exp(200) is inf
    shifted = (logits.detach() + shift).requires_grad_()
    loss, expected = (softmax_cross_entropy_loss(x, labels) for x in (shifted, logits))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, shifted)[0],
        torch.autograd.grad(expected, logits)[0],
        rtol=1e-4,
        atol=1e-4,
    )


def test_the_gradients_of_an_anchor_sum_to_zero():
    logits, labels = random_batch(columns=K + 1)
    (gradient,) = torch.autograd.grad(softmax_cross_entropy_loss(logits, labels), logits)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(len(labels)), rtol=0, atol=1e-6)


def test_an_easy_example_keeps_a_loss_where_a_log_softmax_rounds_it_to_zero():
    logits = torch.tensor([[20.0, 0.0, 0.0]])
    assert F.cross_entropy(logits, torch.tensor([0])).item() == 0
    loss = softmax_cross_entropy_loss(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(2 * math.exp(-20), rel=1e-6)


@pytest.mark.parametrize(("num_classes", "prior"), [(80, 0.01), (1, 0.01), (5, 0.1)])
def test_a_bias_on_the_background_logit_alone_starts_training_at_the_prior(num_classes, prior):
    logits = torch.zeros(1, num_classes + 1)
    logits[0, -1] = math.log(num_classes * (1 - prior) / prior)
    background = softmax_cross_entropy_loss(logits, torch.tensor([num_classes]))
    assert math.exp(-background.item()) == pytest.approx(1 - prior)
    positive = softmax_cross_entropy_loss(logits, torch.tensor([0]))
    assert math.exp(-positive.item()) == pytest.approx(prior / num_classes)


def test_a_background_column_alone_is_no_softmax():
    with pytest.raises(ValueError, match=r"K >= 1, got \(3, 1\)"):
        softmax_cross_entropy_loss(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
