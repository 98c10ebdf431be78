import pytest
import torch

from focal_plugin.losses import GHMBoxLoss, ghm_box_loss, gradient_density
from focal_plugin.losses.ghm_box import authentic_smooth_l1_of_errors

from .box_regimes import assert_value_and_gradient_match, delta_pair


def _reference(pred, target, mu, bins):
    """Compute 1/M sum ASL1 / count, bin by bin, in float64."""
    error = pred.double() - target.double()
    root = (error**2 + mu**2).sqrt()
    norms = (error / root).abs().detach()
    total, non_empty = 0.0, 0
    for bin in range(bins):
        inside = (norms >= bin / bins) & ((norms < (bin + 1) / bins) | (bin == bins - 1))
        if inside.any():
            non_empty += 1
            total = total + (root - mu)[inside].sum() / inside.sum()
    return total / non_empty


@pytest.mark.parametrize("mu", [0.02, 0.5])
@pytest.mark.parametrize("bins", [1, 10, 30])
def test_equals_its_definition_in_float64(mu, bins):
    pred, target = delta_pair()
    loss = ghm_box_loss(pred, target, mu=mu, bins=bins)
    assert_value_and_gradient_match(loss, _reference(pred, target, mu, bins), pred)


def test_one_bin_is_the_mean_of_asl1():
    pred, target = delta_pair()
    mean = authentic_smooth_l1_of_errors((pred - target).abs(), mu=0.02).mean()
    torch.testing.assert_close(ghm_box_loss(pred, target, bins=1), mean)


def test_many_outliers_weigh_no_more_than_one():
    """Both fill one bin, the one of g = 1."""
    fine = torch.full((1, 4), 0.01)
    values = [
        ghm_box_loss(torch.cat([fine, torch.full((n, 4), 9.0)]), torch.zeros(n + 1, 4))
        for n in (1, 100)
    ]
    torch.testing.assert_close(values[0], values[1])


def test_small_errors_do_not_cancel():
    error = torch.tensor([1e-5])
    naive = torch.sqrt(error**2 + 0.02**2) - 0.02
    true = 1e-10 / 0.04  # d^2 / (2 mu)
    assert abs(naive.item() / true - 1) > 0.1
    assert authentic_smooth_l1_of_errors(error, mu=0.02).item() == pytest.approx(true, rel=1e-5)


def test_far_above_mu_it_is_l1_and_far_below_a_parabola():
    error = torch.tensor([5.0, 1e-3], dtype=torch.float64)
    value = authentic_smooth_l1_of_errors(error, mu=0.02)
    expected = torch.tensor([5.0 - 0.02, 1e-6 / 0.04], dtype=torch.float64)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=0)


def test_the_first_step_has_the_weights_of_momentum_zero_and_later_ones_remember():
    first, second = delta_pair(seed=0), delta_pair(seed=1, scale=0.05)
    loss = GHMBoxLoss()
    torch.testing.assert_close(loss(*first), ghm_box_loss(*first), rtol=0, atol=0)
    assert not torch.isclose(loss(*second), ghm_box_loss(*second), rtol=1e-3)


def test_a_step_changes_the_state_and_per_box_does_not():
    pred, target = delta_pair()
    loss = GHMBoxLoss()
    loss.per_box(pred, target)
    loss.eval()(pred, target)
    assert (loss.density.mean == 0).all()
    loss.train()(pred, target)
    assert loss.density.mean.sum().item() == pred.numel()


def test_a_step_without_boxes_does_not_change_the_state():
    loss = GHMBoxLoss()
    loss(*delta_pair())
    before = {name: buffer.clone() for name, buffer in loss.state_dict().items()}
    loss(torch.zeros(0, 4), torch.zeros(0, 4))
    assert set(before) == {"density.mean", "density.evidence"}
    for name, buffer in loss.state_dict().items():
        torch.testing.assert_close(buffer, before[name])


def test_counts_are_the_mean_over_processes(monkeypatch):
    pred, target = delta_pair()
    monkeypatch.setattr(gradient_density, "mean_over_processes", lambda counts: counts * 3)
    torch.testing.assert_close(GHMBoxLoss()(pred, target) * 3, ghm_box_loss(pred, target))


def test_the_attributes_say_how_to_use_it():
    assert (GHMBoxLoss.own_normalizer, GHMBoxLoss.stateful) == (True, True)


@pytest.mark.parametrize("mu", [0.02, 0.5])
def test_gradcheck(mu):
    errors = torch.linspace(0, 4, 37, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: authentic_smooth_l1_of_errors(d, mu=mu), errors)
