"""Triton implementation of :mod:`~focal_plugin.ops.norm_counts`, for GPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from .dense_loss_block import Block, why_no_dtype
from .dense_loss_triton import DTYPES, LOGITS_PER_TILE, LOGITS_PER_WARP
from .implementations import why_no_triton

TILES = 16
"""Tiles of a program: more need fewer histograms, fewer occupy a GPU on a small level."""


def why_not(block: Block) -> str | None:
    """Return the reason why it cannot be used for this block, or None."""
    return why_no_dtype(block, DTYPES) or why_no_triton(block.logits.device)


def count(block: Block, bins: int) -> Tensor:
    """Count the logits of a block, see :func:`~focal_plugin.ops.count_norms`."""
    from .norm_counts_triton_kernel import norm_counts_kernel  # imported here: it imports Triton

    logits = block.logits
    num_programs = -(-logits.numel() // (LOGITS_PER_TILE * TILES))
    width = 1 << bins.bit_length()  # at least one bin more, for what is not counted
    counts = torch.zeros(max(num_programs, 1), width, dtype=torch.int32, device=logits.device)
    if logits.numel():
        with torch.cuda.device_of(logits):
            norm_counts_kernel[(num_programs,)](
                logits,
                block.labels,
                counts,
                logits.numel(),
                logits.shape[1],
                logits.shape[2],
                BINS=bins,
                WIDTH=width,
                TILES=TILES,
                BLOCK=LOGITS_PER_TILE,
                num_warps=LOGITS_PER_TILE // LOGITS_PER_WARP,
            )
    return counts.sum(dim=0)[:bins]
