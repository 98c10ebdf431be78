"""
Random draws of RoIs, shared by the samplers.

PyTorch's global generator decides, so that a resumed run draws the same.

Shape shorthand:
    P: number of indices
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw(indices: Tensor, count: int) -> Tensor:
    """Draw ``count`` of (P,) indices without replacement; all, in order, if there are no more."""
    if count >= len(indices):
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[: max(count, 0)]]


def without(indices: Tensor, taken: Tensor) -> Tensor:
    """Return the indices that are not taken, in order."""
    return indices[~torch.isin(indices, taken)]
