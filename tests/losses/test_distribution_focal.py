import math

import pytest
import torch

from focal_plugin.losses.distribution_focal import distribution_focal_loss, expected_distance


def brute_force(logits, target):
    """Return the loss of one distance with numbers of Python."""
    target = min(max(target, 0.0), len(logits) - 1.1)
    lower = math.floor(target)
    log_total = math.log(sum(math.exp(x) for x in logits))
    log_p = [x - log_total for x in logits]
    return -(lower + 1 - target) * log_p[lower] - (target - lower) * log_p[lower + 1]


def test_equals_the_formula_for_targets_inside_and_outside_of_the_bins():
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0.0, 1.25, 4.0, -2.0, 77.0])
    found = distribution_focal_loss(logits, target)
    expected = [brute_force(*row) for row in zip(logits.tolist(), target.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_at_its_minimum_the_expected_distance_is_the_target():
    logits = torch.zeros(1, 9, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200)
    target = torch.tensor([3.3])

    def closure():
        optimizer.zero_grad()
        loss = distribution_focal_loss(logits, target).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert expected_distance(logits).item() == pytest.approx(3.3, abs=1e-3)


def test_the_gradient_is_softmax_minus_the_weights_of_both_bins():
    logits = torch.randn(1, 5, requires_grad=True)
    distribution_focal_loss(logits, torch.tensor([2.25])).sum().backward()
    expected = logits.detach().softmax(dim=1) - torch.tensor([[0.0, 0.0, 0.75, 0.25, 0.0]])
    torch.testing.assert_close(logits.grad, expected)


def test_equal_logits_expect_the_middle():
    assert expected_distance(torch.zeros(17)).item() == pytest.approx(8.0)


@pytest.mark.parametrize("shape", [(3, 1), (2, 5)])
def test_other_shapes_are_an_error(shape):
    with pytest.raises(ValueError, match="logits"):
        distribution_focal_loss(torch.zeros(shape), torch.zeros(3))
