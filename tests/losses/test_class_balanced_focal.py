import math
from fractions import Fraction

import pytest
import torch

from focal_plugin.losses import (
    ClassBalancedFocalLoss,
    class_balanced_focal_loss,
    sigmoid_focal_loss,
)
from focal_plugin.losses.class_balanced_focal import effective_number_weights

from .regimes import GAMMAS, K, assert_value_and_gradient_match, one_hot, random_batch

SAMPLES = [1000, 100, 50, 10, 1]


def _exact_weights(samples, cb_beta):
    """Compute equation 2 in fractions, without rounding."""
    beta = Fraction(cb_beta)
    inverse = [(1 - beta) / (1 - beta**n) for n in samples]
    return torch.tensor([float(w * len(samples) / sum(inverse)) for w in inverse]).double()


@pytest.mark.parametrize("cb_beta", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_equals_its_definition_in_float64(gamma, cb_beta):
    logits, labels = random_batch()
    keep = labels >= 0
    y = one_hot(labels)[keep]
    x_t = logits.double()[keep] * (2 * y - 1)
    p_t = torch.sigmoid(x_t)
    focal = -((1 - p_t) ** gamma) * p_t.log()
    weight_of_anchor = y @ _exact_weights(SAMPLES, cb_beta) + (1 - y.sum(-1))
    loss = class_balanced_focal_loss(
        logits, labels, samples_per_class=SAMPLES, cb_beta=cb_beta, gamma=gamma
    )
    assert_value_and_gradient_match(loss, (weight_of_anchor.unsqueeze(-1) * focal).sum(), logits)


@pytest.mark.parametrize("cb_beta", [0.0, 0.5, 0.999, 1 - 1e-9])
def test_weights_are_inverse_effective_numbers_with_a_mean_of_one(cb_beta):
    weights = effective_number_weights(SAMPLES, cb_beta)
    torch.testing.assert_close(weights.double(), _exact_weights(SAMPLES, cb_beta))
    assert weights.mean().item() == pytest.approx(1)


def test_beta_zero_is_focal_loss_without_alpha():
    assert effective_number_weights(SAMPLES, 0.0).tolist() == [1.0] * K
    logits, labels = random_batch()
    loss = class_balanced_focal_loss(logits, labels, samples_per_class=SAMPLES, cb_beta=0.0)
    torch.testing.assert_close(loss, sigmoid_focal_loss(logits, labels, alpha=None))


def test_beta_toward_one_is_inverse_frequency():
    inverse = torch.tensor([1 / n for n in SAMPLES])
    weights = effective_number_weights(SAMPLES, 1 - 1e-12)
    torch.testing.assert_close(weights, inverse / inverse.mean())


def test_classes_beyond_the_effective_number_are_equal():
    """beta^n underflows, but there is no division by zero and no difference between the classes."""
    weights = effective_number_weights([10**6, 10**7, 10**12], 0.99)
    assert weights.tolist() == [1.0, 1.0, 1.0]


def test_a_class_without_samples_has_the_weight_of_a_class_with_one():
    assert torch.equal(
        effective_number_weights([100, 0], 0.999), effective_number_weights([100, 1], 0.999)
    )


def test_the_label_weights_all_logits_of_its_anchor_and_background_has_weight_one():
    logits, labels = random_batch()
    loss = ClassBalancedFocalLoss(samples_per_class=SAMPLES)
    plain = ClassBalancedFocalLoss(samples_per_class=[1] * K)
    ratio = loss.per_anchor(logits, labels) / plain.per_anchor(logits, labels)
    weights = torch.cat([effective_number_weights(SAMPLES, 0.999), torch.ones(1)])
    keep = labels >= 0
    torch.testing.assert_close(ratio[keep], weights[labels[keep]])


def test_rarer_classes_have_larger_weights():
    weights = effective_number_weights(SAMPLES, 0.999)
    assert (weights.diff() > 0).all()
    assert weights[-1] / weights[0] == pytest.approx(1000 * (1 - math.exp(-1)), rel=1e-3)


def test_without_samples_it_can_be_built_but_not_called():
    loss = ClassBalancedFocalLoss()
    with pytest.raises(ValueError, match=f"SAMPLES_PER_CLASS.* must be {K} numbers.* got 0"):
        loss(*random_batch())
