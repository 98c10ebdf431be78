import torch

from focal_plugin.losses import (
    IoUAwareCrossEntropyLoss,
    iou_aware_cross_entropy_loss,
    matchability_aware_loss,
    sigmoid_focal_loss,
)

from ..each import each
from .regimes import (
    GAMMAS,
    K,
    assert_value_and_gradient_match,
    formula_sum,
    one_hot,
    random_batch,
    random_quality,
)


def reference(logits, labels, quality, alpha, gamma):
    """Compute the loss as the authors' code does, in float64."""
    keep = labels >= 0
    x, y = logits.double()[keep], one_hot(labels)[keep]
    p = torch.sigmoid(x)
    target = p**alpha * quality.double()[keep].unsqueeze(-1) ** (1 - alpha)
    target = torch.clamp(target, 0.01).detach()
    positive = target * y
    negative = torch.where(y == 1, 1 - target, p**gamma)
    return (-positive * p.log() - negative * (1 - p).log()).sum()


@each("gamma", GAMMAS)
@each("alpha", [0.0, 0.25, 0.5, 1.0])
def test_equals_the_authors_formula_in_float64(alpha, gamma):
    logits, labels = random_batch()
    quality = random_quality(labels)
    expected = reference(logits, labels, quality, alpha, gamma)
    loss = iou_aware_cross_entropy_loss(logits, labels, quality, alpha=alpha, gamma=gamma)
    assert_value_and_gradient_match(loss, expected, logits)


def test_the_formulas_are_exact_in_float64():
    logits, labels = random_batch(dtype=torch.float64)
    quality = random_quality(labels).double()
    loss = formula_sum(IoUAwareCrossEntropyLoss().terms(logits), logits, labels, quality)
    results = [loss, reference(logits, labels, quality, 0.25, 2.0)]
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)
    gradients = [torch.autograd.grad(x, logits)[0] for x in results]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_a_target_is_at_least_one_hundredth():
    logits = torch.zeros(1, 1, requires_grad=True)
    loss = iou_aware_cross_entropy_loss(logits, torch.tensor([0]), torch.zeros(1))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.item() == torch.tensor(0.5 - 0.01)


def test_without_a_share_of_the_score_positives_are_those_of_mal():
    logits, labels = random_batch()
    quality = random_quality(labels).clamp(min=0.01)
    options = {"alpha": 0.0, "gamma": 0.0}
    loss = iou_aware_cross_entropy_loss(logits, labels, quality, **options)
    labels_of_mal = labels.masked_fill(labels == K, -1)  # drop the background
    mal = matchability_aware_loss(logits, labels_of_mal, quality, gamma=1.0, alpha=0.0)
    negatives = sigmoid_focal_loss(logits, labels, alpha=0.0, gamma=0.0)
    assert_value_and_gradient_match(loss, (mal + negatives).double(), logits)
