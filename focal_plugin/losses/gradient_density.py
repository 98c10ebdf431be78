"""
Weights against crowded gradient norms: what the GHM losses of classes and of boxes share
(arXiv:1811.05181).

The norms g in [0, 1] of a step fall into equal bins. An element of a bin with many others weighs
less; every bin that is not empty weighs the same, and all weights sum to 1.

Shape shorthand:
    ...: any leading shape, one entry a row (an anchor, a box)
    C: elements of a row
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..checks import check_count, check_option
from .processes import mean_over_processes


@torch.no_grad()
def density_weights(norms: Tensor, valid: Tensor, *, bins: int) -> Tensor:
    """
    The weight of each element, from this batch and this process alone.

        w_i = 1 / (number of bins not empty * number of elements in the bin of g_i)

    Args:
        norms: (..., C), gradient norms g in [0, 1].
        valid: (...), bool; the rows that count.
        bins: number of bins of [0, 1].

    Returns:
        float32 (..., C), without gradient; of no meaning in rows that are not valid.
    """
    index = bin_index(norms, bins)
    counts = count_per_bin(index, valid, bins)
    return _weight_per_bin(counts, counts)[index]


class GradientDensity(nn.Module):
    """
    Same weights as :func:`density_weights`, but of counts that are the mean over all processes and,
    bin by bin, a running mean over the steps in which the bin was not empty.

        mean <- mean + rate * (count - mean),   rate = (1 - momentum) / (1 - momentum^steps)

    The rate makes up for the start at nothing: the first step has the weights of its own counts.
    Every process must call it as often as the others.
    """

    def __init__(self, *, bins: int, momentum: float) -> None:
        """
        Args:
            bins: number of bins of [0, 1], an integer >= 1.
            momentum: weight of the old counts, in [0, 1); 0 forgets them.

        Raises:
            IllegalOptionError: an option outside its legal range.
        """
        super().__init__()
        self.bins = check_count("bins", bins, low=1)
        self.momentum = check_option("momentum", momentum, low=0, high=1, open_high=True)
        self.mean: Tensor
        self.evidence: Tensor
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("evidence", torch.zeros(bins))  # 1 - momentum^steps

    @torch.no_grad()
    def weights(self, norms: Tensor, valid: Tensor) -> Tensor:
        """
        Same interface as :func:`density_weights`; the counts of this step are blended into those
        before it, and nothing is stored.
        """
        index = bin_index(norms, self.bins)
        counts, mean, _ = self._blend(index, valid)
        return _weight_per_bin(counts, mean)[index]

    @torch.no_grad()
    def update(self, norms: Tensor, valid: Tensor) -> None:
        """Store what :meth:`weights` blends."""
        _, mean, evidence = self._blend(bin_index(norms, self.bins), valid)
        self.mean.copy_(mean)
        self.evidence.copy_(evidence)

    def _blend(self, index: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counts of this step, and what mean and evidence are after it; (bins,) each."""
        counts = mean_over_processes(count_per_bin(index, valid, self.bins))
        gain = 1 - self.momentum
        seen = counts > 0
        evidence = torch.where(seen, self.momentum * self.evidence + gain, self.evidence)
        rate = torch.where(seen, gain / evidence, torch.zeros_like(evidence))
        return counts, torch.lerp(self.mean, counts, rate), evidence


def bin_index(norms: Tensor, bins: int) -> Tensor:
    """int64, in 0..bins-1 whatever the norm is: a NaN is left to the loss itself to show."""
    return (norms * bins).long().clamp_(0, bins - 1)


def count_per_bin(index: Tensor, valid: Tensor, bins: int) -> Tensor:
    """
    Args:
        index: (..., C), int64 in 0..bins-1.
        valid: (...), bool; the rows that count.

    Returns:
        float32 (bins,).
    """
    index = index.reshape(-1, index.shape[-1])
    ones = valid.long().reshape(-1, 1).expand_as(index)
    # One histogram a column: integers are exact beyond 2^24 and in any order, fewer threads of a
    # GPU meet at one address, and unlike bincount nothing waits for the host.
    counts = torch.zeros(bins, index.shape[1], dtype=torch.int64, device=index.device)
    return counts.scatter_add_(0, index, ones).sum(dim=1).float()


def _weight_per_bin(counts: Tensor, mean: Tensor) -> Tensor:
    """(bins,): 1 / (bins not empty in ``counts`` * ``mean``); 0 for those that are empty."""
    seen = counts > 0
    return torch.where(seen, 1 / (mean * seen.sum()), torch.zeros_like(mean))
