"""C++ implementation of :mod:`~focal_plugin.ops.norm_counts`, see `csrc/norm_counts_kernel.h`."""

from __future__ import annotations

import torch
from torch import Tensor

from .dense_loss_block import Block, why_no_dtype
from .dense_loss_cpp import DTYPES
from .implementations import why_no_cpp


def why_not(block: Block) -> str | None:
    """Return the reason why it cannot be used for this block, or None."""
    return why_no_dtype(block, DTYPES) or why_no_cpp(block.logits.device)


def count(block: Block, bins: int) -> Tensor:
    """Count the logits of a block, see :func:`~focal_plugin.ops.count_norms`."""
    counts: Tensor = torch.ops.focal_plugin.count_norms(block.logits, block.labels, bins)
    return counts
