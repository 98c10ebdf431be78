"""C++ implementation of :mod:`~focal_plugin.ops.weighted_ap`, see `csrc/weighted_ap.cpp`."""

from __future__ import annotations

import torch
from torch import Tensor

from .implementations import why_no_cpp


def why_not(device: torch.device) -> str | None:
    """Return the reason why it cannot be used on this device, or None."""
    return why_no_cpp(device)


def weighted_ap(
    matched: Tensor, ignored: Tensor, image: Tensor, weights: Tensor, objects: Tensor
) -> Tensor:
    """Return precision and recall, for 32 rows of weights at once."""
    found: Tensor = torch.ops.focal_plugin.weighted_ap(matched, ignored, image, weights, objects)
    return found
