import math

import pytest
import torch

from focal_plugin.losses import EffectiveClassMarginLoss, effective_class_margin_loss

from ..each import each
from .regimes import assert_equals_published

LABELS = torch.tensor([0, 1, 2])
PUBLISHED = {
    "value": 0.619056303242,
    "gradient": [
        [-0.259683988448, 0.022428952305, 0.147455777755],
        [0.158401293062, -0.292129003162, 0.0313577138674],
        [0.00701784068586, 0.0102686395381, -0.00525537614584],
    ],
}


def reference(logits, labels, counts, ratio=6.3313):
    """Compute the loss as the authors' code does, logit by logit, without overflow in float64."""
    counts = [max(n, 1) for n in counts]
    counts.append(ratio * sum(counts))
    total = sum(counts)
    loss, rows = 0.0, 0
    for row, label in zip(logits, labels.tolist(), strict=True):
        if label < 0:
            continue
        rows += 1
        for c, n in enumerate(counts):
            root = n**0.25 + (total - n) ** 0.25
            of_class = torch.exp(row[c]) * root / (total - n) ** 0.25
            of_others = torch.exp(-row[c]) * root / n**0.25
            a = (total - n) / n
            p = (of_class if c == label else of_others) / (of_class + of_others)
            loss = loss - a * math.log((1 + a) / a) * p.log()
    return loss / max(rows, 1)


@each(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-6)])
def test_value_and_gradient_are_those_of_the_definition(dtype, tolerance):
    logits = [[0.4, -1.0, 0.2], [-0.3, 0.8, -1.1], [-2.0, -1.4, 1.6]]
    logits = torch.tensor(logits, dtype=dtype, requires_grad=True)
    loss = effective_class_margin_loss(logits, LABELS, samples_per_class=[900, 30])
    assert loss.dtype == dtype
    assert_equals_published(loss, PUBLISHED, logits, tolerance)


@each("counts", [[1], [7], [900, 30, 1, 2], [5, 0, 3]])
@each("ratio", [0.5, 6.3313])
def test_equals_a_loop_over_all_logits(counts, ratio):
    generator = torch.Generator().manual_seed(1)
    num_classes = len(counts)
    logits = 4 * torch.randn(30, num_classes + 1, dtype=torch.float64, generator=generator)
    labels = torch.randint(-1, num_classes + 1, (30,), generator=generator)
    results = []
    for loss in (effective_class_margin_loss, None):
        x = logits.clone().requires_grad_()
        if loss is None:
            value = reference(x, labels, counts, ratio)
        else:
            value = loss(x, labels, samples_per_class=counts, fg_bg_ratio=ratio)
        results.append((value, *torch.autograd.grad(value, x)))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-14)


@each("magnitude", [89.0, 1e3, 1e30])
def test_it_does_not_overflow(magnitude):
    """The exponentials of the authors' code are infinite from a logit of 89 on."""
    logits = torch.tensor([[magnitude, -magnitude, magnitude]], requires_grad=True)
    for label in range(3):
        loss = effective_class_margin_loss(
            logits, torch.tensor([label]), samples_per_class=[900, 30]
        )
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        if magnitude == 1e3:
            # a wrong logit of weight w costs 2 * w * |x|
            wrong = {0: [0, 0, 1], 1: [1, 1, 1], 2: [1, 0, 0]}[label]
            weights = EffectiveClassMarginLoss(samples_per_class=[900, 30]).margins[1]
            expected = (weights * torch.tensor(wrong)).sum() * 2 * magnitude
            torch.testing.assert_close(loss.double(), expected, rtol=1e-2, atol=0)


def test_a_rare_class_has_the_larger_margin():
    shift, weight = EffectiveClassMarginLoss(samples_per_class=[900, 30]).margins
    assert shift[1] < shift[0] < shift[2]  # the background is the most frequent
    assert weight[1] > weight[0] > weight[2]


def test_the_score_is_that_of_the_class_and_not_of_the_background():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(50, 4, dtype=torch.float64, generator=generator)
    decoded = EffectiveClassMarginLoss.sigmoid_logits(logits)
    p = torch.sigmoid(logits)
    expected = p[:, :3] * (1 - p[:, 3:])
    torch.testing.assert_close(decoded.sigmoid(), expected, rtol=1e-10, atol=0)
    none = (1 - expected).prod(1, keepdim=True)
    probabilities = EffectiveClassMarginLoss().probabilities(logits)
    torch.testing.assert_close(probabilities, torch.cat([expected, none], 1))
    assert EffectiveClassMarginLoss.sigmoid_logits(1e4 * logits.float()).isfinite().all()


def test_the_counts_must_be_one_for_each_class():
    for counts in ([1], [1, 2, 3]):
        with pytest.raises(ValueError, match=f"samples_per_class must be 2 .*got {len(counts)}"):
            effective_class_margin_loss(torch.zeros(3, 3), LABELS, samples_per_class=counts)
    with pytest.raises(ValueError, match=r"\(..., K\+1\) with K >= 1"):
        effective_class_margin_loss(torch.zeros(1, 1), torch.tensor([0]), samples_per_class=[])
