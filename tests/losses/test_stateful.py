"""Losses with statistics of each step, over the levels of a feature pyramid."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from focal_plugin.losses import gradient_density, gradient_ratio
from focal_plugin.ops.extension import has_extension

from .regimes import K, make, random_batch

NAMES = ["EqualizationLossV2", "EqualizedFocalLoss", "GHMLoss"]
pytestmark = pytest.mark.parametrize("name", NAMES)
SIZES = [120, 50, 30]


def levels(seed=0):
    """Return logits and labels of three levels, and both joined."""
    logits, labels = random_batch(num_anchors=sum(SIZES), seed=seed, scale=1.5)
    parts = [x.detach().requires_grad_() for x in logits.split(SIZES)]
    return parts, list(labels.split(SIZES)), logits, labels


def trained(name):
    """Return a loss in training mode, after two steps."""
    loss = make(name).train()
    for seed in (5, 6):
        loss(*random_batch(seed=seed))
    return loss


def assert_same_state(loss, other, **tolerance):
    before = make_state(loss)
    for key, value in make_state(other).items():
        torch.testing.assert_close(value, before[key], **(tolerance or {"rtol": 0, "atol": 0}))


def make_state(loss):
    return {key: value.clone() for key, value in loss.state_dict().items()}


def test_levels_are_one_step(name):
    logits, labels, joined, all_labels = levels()
    loss = trained(name)
    other = copy.deepcopy(loss)
    value = loss.of_levels(logits, labels, scale=0.5)
    expected = 0.5 * other(joined, all_labels)
    torch.testing.assert_close(value, expected)
    gradients = torch.autograd.grad(value, logits)
    torch.testing.assert_close(torch.cat(gradients), torch.autograd.grad(expected, joined)[0])
    assert_same_state(loss, other, rtol=1e-6, atol=0)
    assert_changed(loss, trained(name))


def assert_changed(loss, other):
    with pytest.raises(AssertionError):
        assert_same_state(loss, other)


def test_a_step_leaves_the_state_of_an_update_by_hand(name):
    logits, labels, _, _ = levels()
    step, by_hand, of_tensor = (trained(name) for _ in range(3))
    step.of_levels(logits, labels)
    by_hand.update_levels(logits, labels)
    assert_same_state(step, by_hand)
    step(logits[0], labels[0])
    of_tensor.update_levels(logits, labels)
    of_tensor.update(logits[0], labels[0])
    assert_same_state(step, of_tensor)


def test_losses_of_anchors_sum_to_the_loss_and_change_no_state(name):
    logits, labels, _, _ = levels()
    loss = trained(name)
    before = copy.deepcopy(loss)
    rows = loss.per_anchor_of_levels(logits, labels)
    assert [x.shape for x in rows] == [y.shape for y in labels]
    assert_same_state(loss, before)
    torch.testing.assert_close(sum(x.sum() for x in rows), before.of_levels(logits, labels))


def test_a_step_with_mining_counts_what_is_kept(name):
    logits, labels, _, _ = levels()
    kept = [y.masked_fill(torch.arange(len(y)) % 3 == 0, -1) for y in labels]
    mined, plain = trained(name), trained(name)
    mined.per_anchor_of_levels(logits, labels)  # the rank of the miner
    mined.per_anchor_of_levels(logits, kept)
    mined.observe_levels(logits, kept)
    plain.of_levels(logits, kept)
    assert_same_state(mined, plain)


def test_a_step_reduces_its_statistics_over_processes_once(name, monkeypatch):
    calls = []
    for module in (gradient_density, gradient_ratio):
        monkeypatch.setattr(module, "mean_over_processes", lambda x: calls.append(x) or x)
    logits, labels, _, _ = levels()
    loss = make(name).train()
    loss.of_levels(logits, labels)
    assert len(calls) == 1
    loss.update_levels(logits, labels)
    assert len(calls) == 2
    loss.eval().update_levels(logits, labels)
    loss.observe_levels(logits, labels)
    assert len(calls) == 3


class _Allocations(TorchDispatchMode):
    """Mode that records the size of all new tensors."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not function.is_view:
            self.sizes.append(result.numel())
        return result


@pytest.mark.skipif(not has_extension(), reason="the C++ extension is not built")
def test_a_step_allocates_one_gradient_and_nothing_else_as_large(name):
    logits = [torch.randn(2, 3 * K, n, n).requires_grad_() for n in (31, 16)]
    views = [x.view(2, 3, K, *x.shape[2:]).permute(0, 3, 4, 1, 2) for x in logits]
    labels = [torch.randint(-1, K + 1, x.shape[:-1]) for x in views]
    loss = make(name).train()
    with _Allocations() as made:
        loss.of_levels(views, labels)
    sizes = [x.numel() for x in logits]
    assert [size for size in made.sizes if size >= min(sizes)] == sizes
