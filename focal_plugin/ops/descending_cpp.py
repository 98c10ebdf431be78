"""C++ implementation of :mod:`~focal_plugin.ops.descending`, see `csrc/descending.cpp`."""

from __future__ import annotations

import torch
from torch import Tensor

from .implementations import why_no_cpp


def why_not(device: torch.device) -> str | None:
    """Return the reason why it cannot be used on this device, or None."""
    return why_no_cpp(device)


def descending(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the largest scores of each row, by a radix select and a radix sort."""
    indices: Tensor = torch.ops.focal_plugin.descending(scores.contiguous(), count)
    return indices
