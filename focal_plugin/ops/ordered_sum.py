"""Sums whose bits do not depend on the number of threads."""

from __future__ import annotations

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
    sums = values
    while True:
        length = sums.shape[-1]
        parts = max(-(-length // WIDTH), 1)
        if parts * WIDTH > length:
            sums = F.pad(sums, (0, parts * WIDTH - length))
        sums = sums.unflatten(-1, (parts, WIDTH)).sum(dim=-1, dtype=torch.float64)
        if parts == 1:
            return sums.squeeze(-1)
