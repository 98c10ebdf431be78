"""
Weights by inverse gradient density, for the GHM losses of classes and boxes (arXiv:1811.05181).

The gradient norms g in [0, 1] of a step fall into equal bins. All bins that are not empty have the
same total weight, which their elements share equally. All weights sum to 1.

Shape shorthand:
    ...: any leading shape, one entry per row (an anchor, a box)
    C: elements of a row
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checks import check_count, check_option
from ..ops import bin_index
from .processes import mean_over_processes


@torch.no_grad()
def density_weights(norms: Tensor, valid: Tensor, *, bins: int) -> Tensor:
    """
    Compute the weight of each element from this batch on this process.

        w_i = 1 / (number of bins not empty * number of elements in the bin of g_i)

    Args:
        norms: (..., C), gradient norms g in [0, 1].
        valid: (...), bool, mask of the rows that count.
        bins: number of bins of [0, 1].

    Returns:
        float32 (..., C), without gradient. Rows that are not valid have undefined weights.
    """
    index = bin_index(norms, bins)
    return density_weights_of_bins(count_per_bin(index, valid, bins))[index]


def density_weights_of_bins(counts: Tensor) -> Tensor:
    """Compute the weight of each bin, float32 (bins,), from their int64 counts."""
    counts = counts.float()
    return _weight_per_bin(counts, counts)


class DensityStep(NamedTuple):
    """Weights of a step, and the state after it."""

    weights: Tensor
    """Weight of the elements of each bin, float32 (bins,)."""
    mean: Tensor
    evidence: Tensor


class GradientDensity(nn.Module):
    """
    Weights like those of :func:`density_weights`, from counts averaged over processes and steps.

    The counts are the mean over all processes. Each bin also has a running mean over the steps in
    which it is not empty.

        mean <- mean + rate * (count - mean),   rate = (1 - momentum) / (1 - momentum^steps)

    The rate corrects the bias of the initial zeros: the first step uses its own counts. Every
    process must call it equally often.
    """

    def __init__(self, *, bins: int, momentum: float) -> None:
        """
        Initialize the counts.

        Args:
            bins: number of bins of [0, 1], an integer >= 1.
            momentum: weight of the previous counts, in [0, 1); 0 forgets them.

        Raises:
            IllegalOptionError: an option is outside its legal range.
        """
        super().__init__()
        self.bins = check_count("bins", bins, low=1)
        self.momentum = check_option("momentum", momentum, low=0, high=1, open_high=True)
        self.mean: Tensor
        self.evidence: Tensor
        self.register_buffer("mean", torch.zeros(self.bins))
        self.register_buffer("evidence", torch.zeros(self.bins))  # 1 - momentum^steps

    @torch.no_grad()
    def step(self, counts: Tensor) -> DensityStep:
        """Compute the weights of a step from its int64 counts on this process; store nothing."""
        mean_counts = mean_over_processes(counts.float())
        gain = 1 - self.momentum
        seen = mean_counts > 0
        evidence = torch.where(seen, self.momentum * self.evidence + gain, self.evidence)
        rate = torch.where(seen, gain / evidence, torch.zeros_like(evidence))
        mean = torch.lerp(self.mean, mean_counts, rate)
        return DensityStep(_weight_per_bin(mean_counts, mean), mean, evidence)

    @torch.no_grad()
    def store(self, step: DensityStep) -> None:
        """Store the running mean that the weights of a step use."""
        self.mean.copy_(step.mean)
        self.evidence.copy_(step.evidence)

    @torch.no_grad()
    def weights(self, norms: Tensor, valid: Tensor) -> Tensor:
        """
        Compute the weights from the running mean and the counts of this step; store nothing.

        The interface is that of :func:`density_weights`.
        """
        index = bin_index(norms, self.bins)
        return self.step(count_per_bin(index, valid, self.bins)).weights[index]

    @torch.no_grad()
    def update(self, norms: Tensor, valid: Tensor) -> None:
        """Store the running mean that :meth:`weights` uses."""
        self.store(self.step(count_per_bin(bin_index(norms, self.bins), valid, self.bins)))


def count_per_bin(index: Tensor, valid: Tensor, bins: int) -> Tensor:
    """
    Count the elements of each bin.

    Args:
        index: (..., C), int64 in 0..bins-1.
        valid: (...), bool, mask of the rows that count.

    Returns:
        int64 (bins,).
    """
    index = index.reshape(-1, index.shape[-1])
    ones = valid.long().reshape(-1, 1).expand_as(index)
    # One histogram per column. Integers are exact beyond 2^24 and in any order, fewer GPU threads
    # write to one address, and unlike bincount there is no synchronization with the host.
    counts = torch.zeros(bins, index.shape[1], dtype=torch.int64, device=index.device)
    return counts.scatter_add_(0, index, ones).sum(dim=1)


def _weight_per_bin(counts: Tensor, mean: Tensor) -> Tensor:
    """Return (bins,): 1 / (bins not empty in ``counts`` * ``mean``), or 0 for an empty bin."""
    seen = counts > 0
    return torch.where(seen, 1 / (mean * seen.sum()), torch.zeros_like(mean))
