"""Precision of the losses that have no kernel."""

from __future__ import annotations

import torch
from torch import Tensor


def dtype_of_result(*inputs: Tensor) -> torch.dtype:
    """Return float64 if an input has it, and float32 for every other floating dtype."""
    wide = any(tensor.dtype == torch.float64 for tensor in inputs)
    return torch.float64 if wide else torch.float32
