"""Sums whose bits do not depend on the number of threads."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH = 1024
"""Numbers that one thread adds."""


def ordered_sum(values: Tensor) -> Tensor:
    """
    Sum the last dimension in an order that does not depend on the number of threads.

    Returns:
        float64 (...) from (..., V).
    """
    if values.is_cuda:  # there, the order depends on the shape only
        return values.sum(dim=-1, dtype=torch.float64)
    length = values.shape[-1]
    parts = max(-(-length // WIDTH), 1)
    if parts * WIDTH > length:
        values = F.pad(values, (0, parts * WIDTH - length))
    sums = values.reshape(*values.shape[:-1], parts, WIDTH).sum(dim=-1, dtype=torch.float64)
    return sums.squeeze(-1) if parts == 1 else ordered_sum(sums)


def sum_over_planes(value: Tensor) -> Tensor:
    """Sum (G, K, T) -> (G, T), in the same order whichever thread computes it."""
    if value.shape[2] == 1:
        return value.sum(dim=1)
    return functools.reduce(torch.add, value.unbind(dim=1))
