"""PyTorch implementation of :mod:`~focal_plugin.ops.descending`."""

from __future__ import annotations

import torch
from torch import Tensor

from .box_pairs import smallest


def why_not(device: torch.device) -> str | None:
    """Return None: nothing prevents it."""
    return None


def descending(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the largest scores of each row."""
    return smallest(-scores, count)
