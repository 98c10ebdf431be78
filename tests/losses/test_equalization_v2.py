import math

import pytest
import torch
from torch.nn import functional as F

from focal_plugin.checks import IllegalOptionError
from focal_plugin.losses import (
    EqualizationLossV2,
    equalization_loss_v2,
    equalized_focal_loss,
    sigmoid_cross_entropy_loss,
)

from .regimes import (
    K,
    assert_value_and_gradient_match,
    gradient_norms_per_class,
    one_hot,
    random_batch,
)

RATIO = torch.tensor([0.0, 0.3, 0.8, 1.0, 30.0])
DEFAULTS = {"gamma": 12.0, "mu": 0.8, "alpha": 4.0}


def _reference(logits, labels, ratio, gamma, mu, alpha):
    """Compute equations 4 to 6: weights q for positives and r for negatives, one per class."""
    keep = labels >= 0
    r = 1 / (1 + torch.exp(-gamma * (ratio.double() - mu)))
    q = 1 + alpha * (1 - r)
    y = one_hot(labels)[keep]
    cross_entropy = F.binary_cross_entropy_with_logits(logits.double()[keep], y, reduction="none")
    return ((q * y + r * (1 - y)) * cross_entropy).sum()


@pytest.mark.parametrize(("gamma", "mu", "alpha"), [(12.0, 0.8, 4.0), (2.0, -1.0, 0.0), (0, 0, 1)])
def test_equals_its_definition_in_float64(gamma, mu, alpha):
    logits, labels = random_batch()
    options = {"gamma": gamma, "mu": mu, "alpha": alpha}
    loss = equalization_loss_v2(logits, labels, gradient_ratio=RATIO, **options)
    assert_value_and_gradient_match(loss, _reference(logits, labels, RATIO, **options), logits)


@pytest.mark.parametrize("loss", [equalization_loss_v2, equalized_focal_loss])
def test_the_ratios_come_in_any_container(loss):
    logits, labels = random_batch()
    expected = loss(logits, labels, gradient_ratio=RATIO)
    by_class = dict(reversed(list(enumerate(RATIO.tolist()))))
    for ratio in (RATIO.tolist(), RATIO.numpy(), by_class, tuple(RATIO)):
        torch.testing.assert_close(loss(logits, labels, gradient_ratio=ratio), expected)
    for wrong in (0.5, torch.tensor(0.5), RATIO.view(1, -1), {1: 0.5}, [-0.5] * len(RATIO)):
        with pytest.raises(IllegalOptionError, match=r"^gradient_ratio must (be|have)"):
            loss(logits, labels, gradient_ratio=wrong)


def test_balanced_classes_make_it_cross_entropy():
    logits, labels = random_batch()
    loss = equalization_loss_v2(logits, labels)
    torch.testing.assert_close(loss, sigmoid_cross_entropy_loss(logits, labels), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("ratio", "r", "q"),
    [
        (0.8, 0.5, 3.0),  # the middle of the map
        (0.0, 1 / (1 + math.exp(9.6)), 5 - 4 / (1 + math.exp(9.6))),  # no positive gradient
        (5.0, 1.0, 1.0),
    ],
)
def test_weights_of_negatives_and_positives_by_hand(ratio, r, q):
    logits, ratio = torch.zeros(1, 1), torch.tensor([ratio])
    positive = equalization_loss_v2(logits, torch.tensor([0]), gradient_ratio=ratio)
    negative = equalization_loss_v2(logits, torch.tensor([1]), gradient_ratio=ratio)
    assert positive.item() == pytest.approx(q * math.log(2))
    assert negative.item() == pytest.approx(r * math.log(2))


def test_it_collects_weighted_gradients_and_uses_them_from_the_next_step_on():
    loss = EqualizationLossV2(num_classes=K, **DEFAULTS).train()
    ratio, positive, negative = torch.full((K,), 100.0), 0, 0
    for seed in range(3):
        logits, labels = random_batch(seed=seed, scale=1.0)
        # With a random share of positives, f would be 0 and the second step would have no weight
        labels = torch.where(labels == K, labels.roll(1), labels)
        assert_value_and_gradient_match(
            loss(logits, labels), _reference(logits, labels, ratio, **DEFAULTS), logits
        )
        exact = logits.detach().double().requires_grad_()
        reference = _reference(exact, labels, ratio, **DEFAULTS)
        step = gradient_norms_per_class(reference, exact, labels)
        positive, negative = positive + step[0], negative + step[1]
        torch.testing.assert_close(loss.gradients.positive, positive, rtol=1e-5, atol=0)
        torch.testing.assert_close(loss.gradients.negative, negative, rtol=1e-5, atol=0)
        ratio = positive / negative
        assert ((ratio > 0.05) & (ratio < 5)).any()


def test_the_gradient_of_a_logit_is_its_distance_from_the_target_times_its_weight():
    loss = EqualizationLossV2(num_classes=1, **DEFAULTS).train()
    loss.gradients.add(torch.tensor([0.8]), torch.tensor([1.0]))  # r = .5, q = 3
    before = loss.gradients.positive.item(), loss.gradients.negative.item()
    logits = torch.logit(torch.tensor([[0.9], [0.3], [0.6]]))
    loss(logits, torch.tensor([0, 1, -1]))
    positive, negative = loss.gradients.positive.item(), loss.gradients.negative.item()
    assert positive - before[0] == pytest.approx(3 * 0.1)
    assert negative - before[1] == pytest.approx(0.5 * 0.3)


def test_background_alone_switches_the_negatives_off():
    """The docstring's note about dense anchors: f falls to sigmoid(-9.6)."""
    loss = EqualizationLossV2(num_classes=K).train()
    logits, background = torch.zeros(10, K), torch.full((10,), K)
    first, second = loss(logits, background), loss(logits, background)
    assert (second / first).item() == pytest.approx(1 / (1 + math.exp(9.6)))


def test_a_class_without_negatives_stays_balanced():
    loss = EqualizationLossV2(num_classes=1).train()
    logits, labels = torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)
    torch.testing.assert_close(loss(logits, labels), loss(logits, labels), rtol=0, atol=0)
    assert loss.gradients.positive.item() == pytest.approx(2 * 4 * 0.5)
