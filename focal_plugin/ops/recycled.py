"""
Memory of gradients on a CPU, kept from step to step.

The gradient of the logits of two images of 800 x 1344 px has 123 MiB. The C library returns so much
memory to the system at once, and the next step waits until the system has cleared it. Here the
memory of a gradient is used again as soon as no tensor has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .extension import has_extension

LEAST_BYTES = 1 << 20
"""Smaller tensors are not worth it: the C library keeps their memory itself."""


def empty_recycled(like: Tensor) -> Tensor:
    """
    Create an uninitialized tensor, in memory of an earlier one if there is any.

    Args:
        like: a contiguous tensor, with the shape, dtype and device of the result.

    Returns:
        A tensor whose memory no other tensor has. It can be modified, kept and viewed like any
        other, but not enlarged in place.

    Note:
        There are never more buffers than were in use at once. :func:`empty_cache` frees them. On a
        GPU PyTorch does the same, and without the extension, or compiled, the memory is new.
    """
    is_recycled = (
        like.device.type == "cpu"
        and like.nbytes >= LEAST_BYTES
        and not torch.compiler.is_compiling()
        and has_extension()
    )
    if not is_recycled:
        return torch.empty_like(like)
    tensor: Tensor = torch.ops.focal_plugin.empty_recycled(like)
    return tensor


def empty_cache() -> int:
    """Free the memory that is kept for the next gradient, and return its size in bytes."""
    return int(torch.ops.focal_plugin.forget_recycled()) if has_extension() else 0
