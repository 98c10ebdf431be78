import torch

from focal_plugin.losses import sigmoid_cross_entropy_loss, sigmoid_focal_loss, varifocal_loss

from ..each import each
from .regimes import (
    GAMMAS,
    K,
    assert_value_and_gradient_match,
    one_hot,
    random_batch,
    random_quality,
)


@each("gamma", GAMMAS)
@each("alpha", [0.0, 0.25, 0.75, 1.0])
def test_equals_equation_2_in_float64(alpha, gamma):
    logits, labels = random_batch()
    quality = random_quality(labels)
    reference = _reference(logits, labels, quality, alpha, gamma)
    loss = varifocal_loss(logits, labels, quality, alpha=alpha, gamma=gamma)
    assert_value_and_gradient_match(loss, reference, logits)


def _reference(logits, labels, quality, alpha, gamma):
    keep = labels >= 0
    x, q = logits.double()[keep], (one_hot(labels) * quality.double().unsqueeze(-1))[keep]
    assert ((q == 0) & (one_hot(labels)[keep] == 1)).any()  # including positives of quality 0
    p = torch.sigmoid(x)
    positive = -q * (q * p.log() + (1 - q) * (1 - p).log())
    negative = -alpha * p**gamma * (1 - p).log()
    return positive[q > 0].sum() + negative[q == 0].sum()


def test_perfect_boxes_have_plain_cross_entropy_beside_weighted_focal_negatives():
    logits, labels = random_batch()
    ones = torch.ones(labels.shape)
    cross_entropy = sigmoid_cross_entropy_loss(logits, labels, alpha=1.0)  # positives only
    negatives = sigmoid_focal_loss(logits, labels, alpha=0.0, gamma=2.0)  # negatives only
    expected = (cross_entropy + 0.75 * negatives).double()
    loss = varifocal_loss(logits, labels, ones, alpha=0.75, gamma=2.0)
    assert_value_and_gradient_match(loss, expected, logits)


def test_perfect_boxes_and_neither_weight_nor_focus_are_cross_entropy():
    logits, labels = random_batch()
    loss = varifocal_loss(logits, labels, torch.ones(labels.shape), alpha=1.0, gamma=0.0)
    expected = sigmoid_cross_entropy_loss(logits, labels).double()
    assert_value_and_gradient_match(loss, expected, logits)


def test_a_positive_that_misses_its_object_counts_as_background():
    logits, labels = random_batch()
    background = labels.masked_fill(labels >= 0, K)
    zeros = torch.zeros(labels.shape)
    missed = varifocal_loss(logits, labels, zeros)
    expected = varifocal_loss(logits, background, zeros).double()
    assert expected > 1
    assert_value_and_gradient_match(missed, expected, logits)


def test_a_positive_is_weighted_by_its_quality_and_moves_toward_it():
    """Its gradient is q (p - q)."""
    quality = torch.tensor([0.2, 0.5, 0.9])
    logits = torch.zeros(3, 1, requires_grad=True)
    loss = varifocal_loss(logits, torch.zeros(3, dtype=torch.int64), quality)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient.squeeze(-1), quality * (0.5 - quality))


def test_alpha_and_gamma_affect_only_the_negatives():
    logits, labels = random_batch()
    quality = random_quality(labels).clamp(min=0.1)
    plain, weighed = (
        torch.autograd.grad(varifocal_loss(logits, labels, quality, **options), logits)[0]
        for options in ({"alpha": 1.0, "gamma": 0.0}, {"alpha": 0.5, "gamma": 3.0})
    )
    is_positive = one_hot(labels).bool()
    is_negative = ~is_positive & (labels >= 0).unsqueeze(-1)
    torch.testing.assert_close(weighed[is_positive], plain[is_positive])
    assert (weighed[is_negative] < plain[is_negative]).all()
