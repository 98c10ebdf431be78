import pytest
import torch
from torch.nn import functional as F

from focal_plugin.losses import (
    MatchabilityAwareLoss,
    matchability_aware_loss,
    quality_focal_loss,
    sigmoid_cross_entropy_loss,
)
from focal_plugin.losses.matchability_aware import DetachedFocal
from focal_plugin.ops import check_formula
from focal_plugin.ops.formula_check import FormulaError

from ..each import each
from .regimes import (
    GAMMAS,
    assert_equals_published,
    assert_value_and_gradient_match,
    formula_sum,
    one_hot,
    random_batch,
    random_quality,
)

LOGITS = [
    [1.2, -0.7, 0.3], [-0.4, 0.9, -1.5], [0.1, -2.0, 0.8],
    [-0.9, 0.45, -0.2], [2.0, 1.0, -1.0], [0.6, -0.3, 1.7],
]  # fmt: skip
LABELS = torch.tensor([0, 1, 3, 2, -1, 3])
QUALITY = [0.62, 0.81, 0.0, 0.33, 0.0, 0.0]
PUBLISHED = [
    {
        "inputs": (LOGITS, LABELS, QUALITY),
        "gamma": 1.5,
        "value": 6.30072461166,
        "gradient": [
            [0.28033629531, 0.063420690499, 0.25010158312],
            [0.102024925184, -0.018050497375, 0.0142139245185],
            [0.199689493735, 0.00490588375635, 0.395441797324],
            [0.0449194368092, 0.291381356891, 0.260595435352],
            [0.0, 0.0, 0.0],
            [0.334968133281, 0.118139622653, 0.657398385616],
        ],
    },
    {
        "inputs": (
            [[0.0, -3.0], [2.0, -2.5], [2.6, 3.1], [-1.4, -0.2]],
            torch.tensor([0, 0, 2, 2]),
            [0.0, 1.0, 0.0, 0.0],
        ),
        "gamma": 2.0,
        "value": 6.1443074796,
        "gradient": [
            [0.5, 0.00010667091167],
            [-0.119202922022, 0.000436523126298],
            [0.806594612446, 0.876172838034],
            [0.00774078457874, 0.091225883839],
        ],
    },
]


@each("case", PUBLISHED)
@each(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-6)])
def test_value_and_gradient_are_those_of_the_definition(case, dtype, tolerance):
    logits, labels, quality = case["inputs"]
    logits = torch.tensor(logits, dtype=dtype, requires_grad=True)
    quality = torch.tensor(quality, dtype=dtype)
    terms = MatchabilityAwareLoss(gamma=case["gamma"]).terms(logits)
    loss = formula_sum(terms, logits, labels, quality)
    assert_equals_published(loss, case, logits, tolerance)
    if dtype == torch.float32:
        loss = matchability_aware_loss(logits, labels, quality, gamma=case["gamma"])
        assert_equals_published(loss, case, logits, tolerance)


@each("gamma", GAMMAS)
@each("alpha", [None, 0.0, 0.75, 1.0])
def test_equals_the_authors_weighted_cross_entropy(alpha, gamma):
    logits, labels = random_batch()
    quality = random_quality(labels)
    keep = labels >= 0
    x, y = logits.double()[keep], one_hot(labels)[keep]
    target = y * quality.double()[keep].unsqueeze(-1) ** gamma
    weight = torch.sigmoid(x).detach() ** gamma * (1.0 if alpha is None else alpha) * (1 - y) + y
    reference = F.binary_cross_entropy_with_logits(x, target, weight=weight, reduction="sum")
    loss = matchability_aware_loss(logits, labels, quality, alpha=alpha, gamma=gamma)
    assert_value_and_gradient_match(loss, reference, logits)


def test_the_gradient_of_a_negative_is_a_power_of_its_probability():
    logits = torch.linspace(-8, 8, 33).unsqueeze(1).requires_grad_()
    labels = torch.ones(33, dtype=torch.int64)
    loss = matchability_aware_loss(logits, labels, torch.zeros(33), gamma=1.5, alpha=0.5)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, 0.5 * torch.sigmoid(logits.detach()) ** 2.5)


def test_a_positive_that_misses_its_object_keeps_its_weight():
    """A varifocal loss would scale it by p^gamma."""
    logits = torch.tensor([[-1.0]], requires_grad=True)
    loss = matchability_aware_loss(logits, torch.tensor([0]), torch.zeros(1))
    torch.testing.assert_close(loss, F.softplus(torch.tensor(-1.0)))


def test_gamma_zero_is_cross_entropy():
    logits, labels = random_batch()
    loss = matchability_aware_loss(logits, labels, random_quality(labels), gamma=0.0)
    expected = sigmoid_cross_entropy_loss(logits, labels)
    assert_value_and_gradient_match(loss, expected.double(), logits)


def test_positives_alone_are_soft_cross_entropy_with_the_powered_quality():
    logits, labels = random_batch(columns=1)
    labels = labels.clamp(max=0)
    quality = random_quality(labels)
    loss = matchability_aware_loss(logits, labels, quality, gamma=1.5)
    expected = quality_focal_loss(logits, labels, quality**1.5, beta=0.0)
    assert_value_and_gradient_match(loss, expected.double(), logits)


class Differentiated(DetachedFocal):
    """Formula with the slope of the focal loss, which differentiates the weight."""

    def slope(self, at):
        return at.q**self.gamma * (-at.q - self.gamma * at.p * at.ce)


def test_a_slope_that_differentiates_what_the_value_detaches_is_refused():
    check_formula(DetachedFocal(1.5))
    with pytest.raises(FormulaError, match=r"Differentiated: slope is .* the derivative of value"):
        check_formula(Differentiated(1.5))
