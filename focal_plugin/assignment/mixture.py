"""
Mixture of two normal distributions on a line, fitted to several samples at the same time.

Shape shorthand:
    M: number of samples
    C: numbers of a sample, padded
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCE = 1e-3
"""Change of the mean log likelihood below which a fit has converged."""
MAX_STEPS = 100
ADDED_VARIANCE = 1e-6
"""Term of each variance, which keeps it above zero."""


class Mixture(NamedTuple):
    """Two components for each sample, (M, 2) each."""

    weight: Tensor
    mean: Tensor
    variance: Tensor

    def log_likelihood(self, values: Tensor) -> Tensor:
        """Return the logarithm of weight times density, (M, C, 2), of values (M, C)."""
        weight, mean, variance = (x.unsqueeze(1) for x in self)
        squared = (values.unsqueeze(2) - mean).square() / variance
        return weight.log() - (squared + (2 * math.pi * variance).log()) / 2


def fit_two_normals(values: Tensor, valid: Tensor) -> Mixture:
    """
    Fit a mixture of two normal distributions to each sample by expectation maximization.

    Constants and start are those of scikit-learn's `GaussianMixture` in the authors' code of PAA:
    the means start at the minimum and the maximum, the weights at 0.5 and the variances at 1.

    Args:
        values: float64 (M, C).
        valid: bool (M, C), the numbers of each sample, at least one.
    """
    low = values.masked_fill(~valid, torch.inf).amin(dim=1)
    high = values.masked_fill(~valid, -torch.inf).amax(dim=1)
    ones = torch.ones_like(torch.stack([low, high], dim=1))
    fit = Mixture(weight=ones / 2, mean=torch.stack([low, high], dim=1), variance=ones)
    values = values.masked_fill(~valid, 0)
    mask = valid.unsqueeze(2)
    count = valid.sum(dim=1, keepdim=True)
    bound = values.new_full((len(values), 1), -torch.inf)
    active = torch.ones_like(bound, dtype=torch.bool)
    for _ in range(MAX_STEPS):
        joint = fit.log_likelihood(values)
        total = joint.logsumexp(dim=2, keepdim=True)
        share = (joint - total).exp() * mask  # (M, C, 2)
        size = share.sum(dim=1) + 10 * torch.finfo(values.dtype).eps
        mean = (share * values.unsqueeze(2)).sum(dim=1) / size
        offset = values.unsqueeze(2) - mean.unsqueeze(1)
        variance = (share * offset.square()).sum(dim=1) / size + ADDED_VARIANCE
        step = Mixture(size / count, mean, variance)
        fit = Mixture(*(torch.where(active, *x) for x in zip(step, fit, strict=True)))
        previous, bound = bound, (total * mask).sum(dim=1) / count
        active = active & ((bound - previous).abs() >= TOLERANCE)
        if not active.any():
            break
    return fit
