import pytest
import torch

from focal_plugin.losses import sigmoid_cross_entropy_loss, sigmoid_hinge_loss
from focal_plugin.losses.sigmoid_hinge import Hinge
from focal_plugin.ops import apply_formula

from .regimes import K, assert_value_and_gradient_match, one_hot, random_batch, reference_sum

MARGINS = [0.3, 0.5, 1.0]


@pytest.mark.parametrize("margin", MARGINS)
def test_equals_margin_minus_p_t_in_float64(margin):
    logits, labels = random_batch()
    reference = reference_sum(
        lambda p_t, x_t: (margin - p_t).clamp(min=0), logits, labels, alpha=None
    )
    loss = sigmoid_hinge_loss(logits, labels, margin=margin)
    assert_value_and_gradient_match(loss, reference, logits)


def test_above_the_margin_there_is_neither_loss_nor_gradient():
    # p_t = .82 for every logit of both anchors
    logits = torch.tensor([[1.5, -1.5], [-1.5, -1.5]], requires_grad=True)
    labels = torch.tensor([0, 2])
    loss = sigmoid_hinge_loss(logits, labels, margin=0.8)
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, logits)[0] == 0).all()
    assert sigmoid_hinge_loss(logits, labels, margin=0.85).item() > 0


def test_below_the_margin_the_gradient_is_p_times_one_minus_p_toward_the_label():
    logits, labels = random_batch(scale=2.0)
    (gradient,) = torch.autograd.grad(sigmoid_hinge_loss(logits, labels), logits)
    p = torch.sigmoid(logits.detach())
    expected = (1 - 2 * one_hot(labels).float()) * p * (1 - p)
    expected[labels == -1] = 0
    torch.testing.assert_close(gradient, expected)


def test_at_margin_one_the_loss_is_the_distance_from_the_targets():
    logits, labels = random_batch()
    keep = labels >= 0
    distance = (one_hot(labels) - torch.sigmoid(logits).double())[keep].abs().sum()
    torch.testing.assert_close(sigmoid_hinge_loss(logits, labels).double(), distance)


def test_the_most_wrong_example_has_the_margin_as_loss_and_no_gradient():
    """This makes it unstable: cross entropy has its largest gradient there."""
    logits = torch.full((1, K), -30.0, requires_grad=True)
    label = torch.tensor([2])
    loss = sigmoid_hinge_loss(logits, label, margin=0.7)
    assert loss.item() == pytest.approx(0.7)
    assert torch.autograd.grad(loss, logits)[0][0, 2].abs() < 1e-12
    pull = torch.autograd.grad(sigmoid_cross_entropy_loss(logits, label), logits)[0][0, 2]
    assert pull.item() == pytest.approx(-1)


@pytest.mark.parametrize("margin", MARGINS)
def test_gradcheck(margin):
    x_t = torch.linspace(-7, 7, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: apply_formula(Hinge(margin), x), x_t)
