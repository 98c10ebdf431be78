"""Wrappers that models have for several devices."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """What a wrapper for several devices holds; any other model itself."""
    return model.module if isinstance(model, DistributedDataParallel | DataParallel) else model
