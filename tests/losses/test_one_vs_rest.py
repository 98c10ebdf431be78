import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from focal_plugin.losses import asymmetric_loss, giou_loss, sigmoid_focal_loss, softmax_focal_loss
from focal_plugin.losses.one_vs_rest import one_vs_rest, sum_per_class

from .regimes import TOLERANCE, K, assert_value_and_gradient_match, one_hot, random_batch


def _cross_entropy(logits, labels, combine=one_vs_rest):
    return combine(
        logits, labels, positive=lambda x, _: F.softplus(-x), negative=lambda x: F.softplus(x)
    )


def _elements(logits, labels):
    """Return the float64 cross entropy of every (anchor, class), 0 if ignored, and the targets."""
    targets = one_hot(labels)
    loss = F.binary_cross_entropy_with_logits(logits.double(), targets, reduction="none")
    return loss * (labels >= 0).double().unsqueeze(-1), targets


def test_splits_an_anchors_loss_into_its_own_logit_and_all_others():
    logits, labels = random_batch()
    elements, targets = _elements(logits, labels)
    split = _cross_entropy(logits, labels)
    torch.testing.assert_close(split.positive.double(), (elements * targets).sum(-1), **TOLERANCE)
    torch.testing.assert_close(
        split.negative.double(), (elements * (1 - targets)).sum(-1), **TOLERANCE
    )


def test_the_two_parts_sum_to_the_loss():
    logits, labels = random_batch()
    split = _cross_entropy(logits, labels)
    total = split.positive.sum() + split.negative.sum()
    assert_value_and_gradient_match(total, _elements(logits, labels)[0].sum(), logits)


def test_each_part_has_the_gradient_of_its_own_elements():
    logits, labels = random_batch()
    elements, targets = _elements(logits, labels)
    split = _cross_entropy(logits, labels)
    for part, mask in ((split.positive, targets), (split.negative, 1 - targets)):
        (gradient,) = torch.autograd.grad(part.sum(), logits, retain_graph=True)
        (expected,) = torch.autograd.grad((elements * mask).sum(), logits, retain_graph=True)
        torch.testing.assert_close(gradient, expected)
        assert (gradient[~(mask.bool() & (labels >= 0).unsqueeze(-1))] == 0).all()


def test_background_has_no_positive_and_an_ignored_anchor_has_neither_part():
    logits, labels = random_batch()
    split = _cross_entropy(logits, labels)
    assert ((split.positive > 0) == ((labels >= 0) & (labels < K))).all()
    assert ((split.negative > 0) == (labels >= 0)).all()


def test_the_positive_receives_the_class_of_its_logit():
    logits, labels = random_batch()
    weights = torch.arange(1.0, K + 1)
    split = one_vs_rest(logits, labels, positive=lambda x, c: weights[c], negative=torch.zeros_like)
    expected = torch.where(labels < K, labels + 1, 0).clamp(min=0).float()
    assert torch.equal(split.positive, expected)


@pytest.mark.parametrize("shape", [(200,), (4, 50), (2, 10, 10)])
def test_a_sum_per_class_is_that_of_the_one_hot_elements(shape):
    logits, labels = random_batch()
    elements, targets = _elements(logits, labels)
    sums = _cross_entropy(logits.reshape(*shape, K), labels.reshape(shape), combine=sum_per_class)
    torch.testing.assert_close(sums.positive.double(), (elements * targets).sum(0), **TOLERANCE)
    torch.testing.assert_close(
        sums.negative.double(), (elements * (1 - targets)).sum(0), **TOLERANCE
    )


def test_a_sum_per_class_over_no_anchors_is_zero():
    sums = _cross_entropy(
        torch.zeros(0, K), torch.zeros(0, dtype=torch.int64), combine=sum_per_class
    )
    assert sums.positive.tolist() == sums.negative.tolist() == [0.0] * K


class _LargeTensors(TorchDispatchMode):
    """Mode that records the dtypes of all new tensors of a given size."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.dtypes = numel, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() >= self.numel:
            self.dtypes.append(result.dtype)
        return result


@pytest.mark.parametrize("combine", [one_vs_rest, sum_per_class])
def test_no_one_hot_target_is_created(combine):
    """The only (R, K) tensors are the logits, their loss, and both with masked rows or columns."""
    logits, labels = random_batch()
    with _LargeTensors(logits.numel()) as made:
        _cross_entropy(logits, labels, combine)
    assert 0 < len(made.dtypes) <= 5
    assert set(made.dtypes) == {torch.float32}


@pytest.mark.parametrize("kind", [list, tuple, np.asarray])
@pytest.mark.parametrize(
    "loss", [sigmoid_focal_loss, softmax_focal_loss, asymmetric_loss, giou_loss]
)
def test_what_is_no_tensor_is_refused_by_name(loss, kind):
    with pytest.raises(TypeError, match=r"^(labels|targets) must be a tensor, got (list|tuple|nd)"):
        loss(torch.zeros(4, 4), kind([0, 1, 2, 3]))
