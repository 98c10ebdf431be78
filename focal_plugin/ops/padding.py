"""Padding of a tensor, so that PyTorch computes all of it with the same instructions."""

from __future__ import annotations

import torch
from torch import Tensor


def padded(logits: Tensor, multiple: int = 1 << 13) -> Tensor:
    """
    Copy the logits to a flat, padded float32 tensor.

    PyTorch cuts a tensor into vectors for each thread. It computes the remainder with other
    instructions, which can change the last bits. With one or two threads, the padding leaves no
    remainder.
    """
    count = logits.numel()
    flat = logits.new_empty(count + -count % multiple, dtype=torch.float32)
    flat[:count].view(logits.shape).copy_(logits)
    flat[count:] = 0
    return flat


def unpadded(flat: Tensor, shape: torch.Size) -> Tensor:
    """Return the numbers before the padding, in their shape."""
    return flat[: shape.numel()].view(shape)
