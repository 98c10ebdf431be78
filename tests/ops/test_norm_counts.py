"""Count of the logits by gradient norm, by every implementation that this machine has."""

import math

import pytest
import torch

from focal_plugin.losses.ghm import BinnedCrossEntropy
from focal_plugin.ops import Terms, count_norms, dense_loss

from .test_dense_loss import K, batch, every_implementation


def norms_of(logits, labels):
    """Return |p - y| of every logit that is not ignored, float64."""
    targets = (labels.unsqueeze(-1) == torch.arange(logits.shape[-1])).double()
    return (torch.sigmoid(logits.double()) - targets).abs()[labels >= 0]


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes", "slices"])
@pytest.mark.parametrize("bins", [1, 2, 30])
def test_counts_equal_those_of_float64(bins, layout, impl):
    logits, labels, _ = batch(layout)
    index = (norms_of(logits, labels) * bins).long().clamp(max=bins - 1)
    counts = count_norms(logits, labels, bins=bins, impl=impl)
    assert counts.dtype == torch.int64
    assert counts.tolist() == index.flatten().bincount(minlength=bins).tolist()


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_reads_the_bins_that_are_counted(dtype, layout, impl):
    """Norms lie close to the edges of bins, where rounding decides."""
    edges = torch.arange(1, 16) / 16
    edges = torch.log(edges / (1 - edges))
    logits, labels, _ = batch(layout, (2, 61, 47, 3), dtype=torch.float32)
    at = torch.randint(len(edges), logits.shape, generator=torch.Generator().manual_seed(0))
    logits.copy_(edges[at] * (1 + 1e-7 * logits.sign()))
    logits = logits.to(dtype).requires_grad_()
    counts = count_norms(logits, labels, bins=16, impl=impl)
    for bin in range(16):
        only = BinnedCrossEntropy(torch.zeros(16).index_fill(0, torch.tensor([bin]), 1.0))
        loss = dense_loss(logits, labels, Terms(only, only), impl=impl)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert (gradient != 0).sum() == counts[bin], bin


@every_implementation
def test_several_levels_are_counted_together(impl):
    of_levels = [batch("planes", (2, size, size, 3))[:2] for size in (6, 3, 1)]
    logits, labels = zip(*of_levels, strict=True)
    together = count_norms(logits, labels, bins=5, impl=impl)
    assert torch.equal(together, sum(count_norms(*x, bins=5, impl=impl) for x in of_levels))


@every_implementation
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_ignored_anchors_are_not_counted_and_a_nan_is_in_the_first_bin(layout, impl):
    logits, labels, _ = batch(layout)
    expected = count_norms(logits, labels, bins=4, impl=impl)
    logits[labels < 0] = math.nan
    assert torch.equal(count_norms(logits, labels, bins=4, impl=impl), expected)
    counted = (labels == K).nonzero()[0]
    logits[(*counted, 0)] = 9.0
    high = count_norms(logits, labels, bins=4, impl=impl)
    logits[(*counted, 0)] = math.nan
    low = count_norms(logits, labels, bins=4, impl=impl)
    assert (low - high).tolist() == [1, 0, 0, -1]


@every_implementation
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0,)])
def test_no_anchors_have_no_norms(shape, impl):
    for num_classes in (0, 1, K):
        logits, labels = torch.zeros(*shape, num_classes), torch.zeros(shape, dtype=torch.int64)
        assert count_norms(logits, labels, bins=3, impl=impl).tolist() == [0, 0, 0]


@every_implementation
def test_more_classes_than_a_unit_holds_are_counted(impl):
    logits = torch.randn(3, 2100, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2050, -1, 2100])
    index = (norms_of(logits, labels) * 7).long()
    counts = count_norms(logits, labels, bins=7, impl=impl)
    assert counts.tolist() == index.flatten().bincount(minlength=7).tolist()
