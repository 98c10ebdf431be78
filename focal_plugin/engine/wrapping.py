"""Wrappers of models for several devices."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside a wrapper for several devices, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel | DataParallel) else model
