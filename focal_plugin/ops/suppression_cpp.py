"""C++ implementation of :mod:`~focal_plugin.ops.suppression`, see `csrc/suppression.cpp`."""

from __future__ import annotations

import torch
from torch import Tensor

from .implementations import why_no_cpp


def why_not(device: torch.device) -> str | None:
    """Return the reason why it cannot be used on this device, or None."""
    return why_no_cpp(device)


def suppress(boxes: Tensor, groups: Tensor, competing: Tensor, threshold: float) -> Tensor:
    """Return the survivors of each list, from one pass over it."""
    survivors: Tensor = torch.ops.focal_plugin.suppress(
        boxes.contiguous(), groups.contiguous(), competing.contiguous(), threshold
    )
    return survivors
