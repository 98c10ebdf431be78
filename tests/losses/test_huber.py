import pytest
import torch
from torch.nn import functional as F

from focal_plugin.losses import huber_loss, l1_loss, smooth_l1_loss

from .box_regimes import assert_value_and_gradient_match, delta_pair

DELTAS = (0.01, 1 / 9, 0.5, 1.0, 3.0)


@pytest.mark.parametrize("delta", DELTAS)
def test_equals_torchs_huber_over_delta_in_float64(delta):
    pred, target = delta_pair()
    huber = F.huber_loss(pred.double(), target.double(), reduction="sum", delta=delta)
    assert_value_and_gradient_match(huber_loss(pred, target, delta=delta), huber / delta, pred)


@pytest.mark.parametrize("delta", DELTAS)
def test_equals_smooth_l1_with_that_beta(delta):
    pred, target = delta_pair()
    smooth = smooth_l1_loss(pred, target, beta=delta)
    loss = huber_loss(pred, target, delta=delta)
    assert_value_and_gradient_match(loss, smooth, pred, rtol=0, atol=0)


def test_equals_the_form_of_a_clipped_and_a_linear_part():
    """Sum over the coordinates: (q^2 / 2 + delta (|d| - q)) / delta, q = min(|d|, delta)."""
    pred, target = delta_pair()
    delta = 1 / 9
    error = (pred.double() - target.double()).abs()
    quadratic = error.clamp(max=delta)
    reference = (quadratic**2 / 2 + delta * (error - quadratic)).sum(dim=1) / delta
    assert_value_and_gradient_match(huber_loss(pred, target), reference.sum(), pred)


@pytest.mark.parametrize(("error", "value"), [(0.05, 0.01125), (0.2, 0.144444), (1.0, 0.944444)])
def test_oracle_values_at_one_ninth(error, value):
    pred = torch.tensor([[error, 0.0, 0.0, 0.0]])
    assert huber_loss(pred, torch.zeros(1, 4)).item() == pytest.approx(value, abs=1e-6)


def test_undivided_it_would_vanish_with_delta():
    pred, target = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    undivided = F.huber_loss(pred, target, reduction="sum", delta=1 / 9)
    assert undivided.item() == pytest.approx(0.104938, abs=1e-6)
    assert huber_loss(pred, target).item() == pytest.approx(9 * 0.104938, abs=1e-5)
    nearly_l1 = huber_loss(pred, target, delta=1e-4)
    torch.testing.assert_close(nearly_l1, l1_loss(pred, target), rtol=1e-4, atol=0)
    assert F.huber_loss(pred, target, reduction="sum", delta=1e-4) < 2e-4
