import functools

import pytest
import torch
from torch.nn import functional as F

from focal_plugin.losses import sigmoid_cross_entropy_loss
from focal_plugin.losses.sigmoid_cross_entropy import CrossEntropy
from focal_plugin.ops import apply_formula

from .regimes import (
    ALPHAS,
    assert_value_and_gradient_match,
    one_hot,
    random_batch,
    reference_sum,
)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_equals_minus_alpha_t_log_p_t_in_float64(alpha):
    logits, labels = random_batch()
    reference = reference_sum(lambda p_t, x_t: -p_t.log(), logits, labels, alpha)
    loss = sigmoid_cross_entropy_loss(logits, labels, alpha=alpha)
    assert_value_and_gradient_match(loss, reference, logits)


def test_without_alpha_it_is_torchs_binary_cross_entropy():
    logits, labels = random_batch()
    keep = labels >= 0
    expected = F.binary_cross_entropy_with_logits(
        logits[keep], one_hot(labels)[keep].float(), reduction="sum"
    )
    torch.testing.assert_close(sigmoid_cross_entropy_loss(logits, labels), expected)


def test_alpha_one_counts_positives_only_and_alpha_zero_negatives_only():
    logits, labels = torch.zeros(2, 1), torch.tensor([0, 1])
    log2 = torch.tensor(2.0).log()
    for label, alpha in ((0, 1.0), (1, 0.0)):
        one = sigmoid_cross_entropy_loss(logits[:1], torch.tensor([label]), alpha=alpha)
        torch.testing.assert_close(one, log2)
        torch.testing.assert_close(sigmoid_cross_entropy_loss(logits, labels, alpha=alpha), log2)


def test_gradcheck():
    x_t = torch.linspace(-9, 9, 19, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(functools.partial(apply_formula, CrossEntropy()), x_t)
