import functools
import itertools
import math

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss as fvcore_focal_loss
from torch.nn import functional as F

from focal_plugin.losses import SigmoidFocalLoss, sigmoid_cross_entropy_loss, sigmoid_focal_loss
from focal_plugin.losses.sigmoid_focal import Focal
from focal_plugin.ops import apply_formula

from ..each import each
from .regimes import (
    ALPHAS,
    GAMMAS,
    K,
    assert_value_and_gradient_match,
    one_hot,
    random_batch,
    reference_sum,
)


@each("gamma", GAMMAS)
@each("alpha", ALPHAS)
def test_equals_equation_5_in_float64(alpha, gamma):
    logits, labels = random_batch()
    reference = reference_sum(
        lambda p_t, x_t: -((1 - p_t) ** gamma) * p_t.log(), logits, labels, alpha
    )
    loss = sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma)
    assert_value_and_gradient_match(loss, reference, logits)


@each("gamma", [0.0, 1.0, 2.0, 5.0])
@each("alpha", [-1, 0.25])
def test_equals_fvcore_where_fvcore_is_finite(alpha, gamma):
    logits, labels = random_batch()
    keep = labels >= 0
    expected = fvcore_focal_loss(
        logits[keep], one_hot(labels)[keep].float(), alpha=alpha, gamma=gamma, reduction="sum"
    )
    loss = sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_has_a_gradient_where_the_power_form_has_nan(gamma):
    logits = torch.tensor([[20.0], [-20.0]], requires_grad=True)
    targets = torch.tensor([[1.0], [0.0]])
    naive = fvcore_focal_loss(logits, targets, alpha=-1, gamma=gamma, reduction="sum")
    assert naive.isfinite()
    assert torch.autograd.grad(naive, logits)[0].isnan().any(), "fvcore has fixed its NaN"

    loss = sigmoid_focal_loss(logits, torch.tensor([0, 1]), alpha=None, gamma=gamma)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = _closed_form_gradient(logits.detach().double(), targets.double(), gamma)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=0)


@each("gamma", GAMMAS)
def test_gradient_is_the_papers_appendix_b(gamma):
    logits, labels = random_batch()
    (gradient,) = torch.autograd.grad(
        sigmoid_focal_loss(logits, labels, alpha=None, gamma=gamma), logits
    )
    expected = _closed_form_gradient(logits.detach().double(), one_hot(labels), gamma)
    expected[labels == -1] = 0
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-7)


def _closed_form_gradient(x, y, gamma):
    """Return dFL/dx = (2y - 1) (1 - p_t)^gamma (gamma p_t log p_t + p_t - 1), p_t not rounded."""
    sign = 2 * y - 1
    p_t, q_t = torch.sigmoid(sign * x), torch.sigmoid(-sign * x)
    return sign * q_t**gamma * (gamma * p_t * p_t.log() - q_t)


def test_gamma_zero_is_cross_entropy():
    logits, labels = random_batch()
    for alpha in (None, 0.75):
        focal = sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=0.0)
        plain = sigmoid_cross_entropy_loss(logits, labels, alpha=alpha)
        torch.testing.assert_close(focal, plain, rtol=0, atol=0)


@pytest.mark.parametrize(("probability", "weight"), [(0.5, 1 / 4), (0.9, 1 / 100)])
def test_gamma_two_weights_a_well_classified_example_as_in_section_3_2(probability, weight):
    logits = torch.tensor([[math.log(probability / (1 - probability))]])
    label = torch.tensor([0])
    focal = sigmoid_focal_loss(logits, label, alpha=None, gamma=2.0)
    plain = sigmoid_cross_entropy_loss(logits, label)
    torch.testing.assert_close(focal / plain, torch.tensor(weight))


def test_never_exceeds_cross_entropy_and_falls_with_gamma():
    logits, labels = random_batch()
    values = [sigmoid_focal_loss(logits, labels, alpha=None, gamma=gamma) for gamma in GAMMAS]
    assert all(larger > smaller for larger, smaller in itertools.pairwise(values))


def test_oracle_values_at_logit_zero():
    logits = torch.zeros(1, 1)
    positive = sigmoid_focal_loss(logits, torch.tensor([0]), alpha=0.25, gamma=2.0)
    negative = sigmoid_focal_loss(logits, torch.tensor([1]), alpha=0.25, gamma=2.0)
    assert positive.item() == pytest.approx(0.0433217, abs=1e-7)
    assert negative.item() == pytest.approx(0.1299651, abs=1e-7)


def test_oracle_value_of_a_published_demo():
    logits = torch.tensor([[0.1], [0.5], [0.7], [0.8]])
    labels = torch.tensor([0, 1, 0, 1])  # one class: 0 is the object, 1 = K the background
    loss = sigmoid_focal_loss(logits, labels, alpha=None, gamma=0.5)
    assert loss.item() == pytest.approx(2.417657, abs=1e-6)


def _demo_loss(logits, is_object, gamma=0.5):
    """Compute the published demo: logarithms and powers of a probability, one class, no alpha."""
    p = torch.sigmoid(logits)
    positive = -((1 - p) ** gamma) * p.log() * is_object
    return (positive - p**gamma * (1 - p).log() * (1 - is_object)).sum()


@pytest.mark.parametrize("label", [0, 1])
def test_equals_the_published_demo_in_float64(label):
    logits = torch.linspace(-80, 16, 385).unsqueeze(-1).requires_grad_()
    labels = torch.full((len(logits),), label)
    loss = sigmoid_focal_loss(logits, labels, alpha=None, gamma=0.5)
    demo = _demo_loss(logits.double(), float(label == 0))
    assert_value_and_gradient_match(loss, demo, logits)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("logit", [17.0, -120.0])
def test_is_finite_where_the_published_demo_is_not(logit, label):
    logits = torch.tensor([[logit]], requires_grad=True)
    assert not _demo_loss(logits, float(label == 0)).isfinite()
    loss = sigmoid_focal_loss(logits, torch.tensor([label]), alpha=None, gamma=0.5)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_audit_at_initialization():
    """100k negatives x 80 classes at prior .01: CE sums to 8.0e4, FL(.25, 2) to 6.0."""
    logits = torch.full((100_000, 80), -math.log(99))
    labels = torch.full((100_000,), 80)
    assert sigmoid_cross_entropy_loss(logits, labels).item() == pytest.approx(8.04e4, rel=1e-3)
    assert sigmoid_focal_loss(logits, labels).item() == pytest.approx(6.03, rel=1e-3)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradcheck(gamma):
    x_t = torch.linspace(-9, 9, 19, dtype=torch.float64, requires_grad=True)
    for smoothing in (0.0, 0.1):
        focal = functools.partial(apply_formula, Focal(gamma, smoothing))
        assert torch.autograd.gradcheck(focal, x_t)


def test_easy_negatives_hold_most_of_cross_entropy_and_little_of_focal_loss():
    """The imbalance: 100k negatives at p = .01 and 20 hard positives at p = .1."""
    logits = torch.cat([torch.full((100_000, K), -math.log(99)), torch.full((20, K), -2.2)])
    labels = torch.cat([torch.full((100_000,), K), torch.zeros(20, dtype=torch.int64)])
    shares = {}
    for name, loss in (("ce", sigmoid_cross_entropy_loss), ("fl", sigmoid_focal_loss)):
        easy = loss(logits[:100_000], labels[:100_000])
        shares[name] = (easy / loss(logits, labels)).item()
    assert shares["ce"] > 0.98
    assert shares["fl"] < 0.05


@each("smoothing", [0.1, 0.9])
@each("gamma", GAMMAS)
@each("alpha", [None, 0.25])
def test_smoothing_moves_the_targets_of_the_cross_entropy_only(alpha, gamma, smoothing):
    logits, labels = random_batch()
    s = smoothing / 2
    reference = reference_sum(
        lambda p_t, x_t: -((1 - p_t) ** gamma) * ((1 - s) * p_t.log() + s * (1 - p_t).log()),
        logits,
        labels,
        alpha,
    )
    loss = sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma, label_smoothing=smoothing)
    assert_value_and_gradient_match(loss, reference, logits)


def test_smoothed_at_gamma_zero_is_cross_entropy_with_smoothed_targets():
    logits, labels = random_batch()
    keep = labels >= 0
    targets = one_hot(labels)[keep] * (1 - 0.2) + 0.2 / 2
    expected = F.binary_cross_entropy_with_logits(logits.double()[keep], targets, reduction="sum")
    loss = sigmoid_focal_loss(logits, labels, alpha=None, gamma=0.0, label_smoothing=0.2)
    assert_value_and_gradient_match(loss, expected, logits)


@pytest.mark.parametrize("smoothing", [0.02, 0.2])
def test_smoothed_cross_entropy_is_smallest_where_p_t_is_the_smoothed_target(smoothing):
    x_t = torch.logit(torch.tensor([1 - smoothing / 2], dtype=torch.float64)).requires_grad_()
    loss = apply_formula(Focal(0.0, smoothing), x_t)
    torch.testing.assert_close(
        torch.autograd.grad(loss, x_t)[0], torch.zeros_like(x_t), rtol=0, atol=1e-12
    )


CLASS_ALPHA = [0.0, 0.25, 0.5, 0.75, 1.0]


@each("gamma", GAMMAS)
def test_a_class_alpha_weights_its_own_logit_in_float64(gamma):
    logits, labels = random_batch()
    reference = reference_sum(
        lambda p_t, x_t: -((1 - p_t) ** gamma) * p_t.log(),
        logits,
        labels,
        torch.tensor(CLASS_ALPHA, dtype=torch.float64),
    )
    loss = sigmoid_focal_loss(logits, labels, gamma=gamma, class_alpha=CLASS_ALPHA)
    assert_value_and_gradient_match(loss, reference, logits)


def test_the_module_takes_the_same_class_alpha():
    logits, labels = random_batch()
    options = {"class_alpha": CLASS_ALPHA, "label_smoothing": 0.1, "gamma": 0.5}
    torch.testing.assert_close(
        SigmoidFocalLoss(**options)(logits, labels), sigmoid_focal_loss(logits, labels, **options)
    )


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_equal_alphas_are_one_alpha(alpha):
    logits, labels = random_batch()
    loss = sigmoid_focal_loss(logits, labels, alpha=None, class_alpha=[alpha] * K)
    torch.testing.assert_close(loss, sigmoid_focal_loss(logits, labels, alpha=alpha))


def test_the_number_of_alphas_must_be_that_of_classes():
    with pytest.raises(ValueError, match=f"class_alpha .*must be {K} numbers.* got 2"):
        sigmoid_focal_loss(*random_batch(), class_alpha=[0.25, 0.75])


def test_the_weights_of_the_classes_are_not_in_a_checkpoint():
    assert SigmoidFocalLoss(class_alpha=CLASS_ALPHA).state_dict() == {}
