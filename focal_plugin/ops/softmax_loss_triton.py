"""Triton implementation of :mod:`~focal_plugin.ops.softmax_loss`, for GPUs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .dense_loss_block import Block
from .dense_loss_triton import DTYPES, LOGITS_PER_TILE, LOGITS_PER_WARP, tile_of
from .implementations import why_no_triton
from .softmax_loss_block import SoftmaxTerms, why_no_kernel


def why_not(block: Block, terms: SoftmaxTerms) -> str | None:
    """Return the reason why it cannot be used for this block, or None."""
    return why_no_kernel(block, terms, DTYPES) or why_no_triton(block.logits.device)


def evaluate(
    block: Block, terms: SoftmaxTerms, factor: Tensor | None, slopes: None = None
) -> tuple[Tensor, Tensor | None]:
    """Compute loss and gradient, see :class:`~focal_plugin.ops.softmax_loss_block.Evaluate`."""
    from .softmax_loss_triton_kernel import softmax_loss_kernel  # imported here: it imports Triton

    logits = block.logits
    per_anchor = torch.empty(block.labels.shape, device=logits.device)
    gradient = None if factor is None else torch.empty_like(logits)
    if logits.numel() == 0:
        return per_anchor.zero_(), gradient
    num_groups, num_columns, num_anchors = logits.shape
    rows = num_anchors == 1
    if rows:  # all in one group
        num_groups, num_anchors = 1, num_groups
    block_t, block_c = _tile_of(num_anchors, num_columns, rows)
    num_blocks = -(-num_anchors // block_t)
    alignment = math.gcd(num_anchors, 16)
    first, second = (*map(float, terms.formula.parameters), 0.0, 0.0)[:2]
    with torch.cuda.device_of(logits):
        softmax_loss_kernel[(num_groups * num_blocks,)](
            logits,
            block.labels,
            terms.weights,
            factor,
            per_anchor,
            gradient,
            num_blocks,
            num_anchors // alignment,
            C=num_columns,
            ROWS=rows,
            ALIGNMENT=alignment,
            FACTOR_PER_ANCHOR=factor is not None and factor.dim() > 0,
            FORMULA=terms.formula.kernel,
            FORMULA_1=first,
            FORMULA_2=second,
            BLOCK_T=block_t,
            BLOCK_C=block_c,
            num_warps=max(block_t * block_c // LOGITS_PER_WARP, 1),
        )
    return per_anchor, gradient


def _tile_of(num_anchors: int, num_columns: int, rows: bool) -> tuple[int, int]:
    """
    Return the number of anchors and of columns that a program holds in its registers at a time.

    A row is one tile if it fits. Its logits are then adjacent, and the second loop has one step.
    """
    if not rows:
        return tile_of(num_anchors, num_columns, rows)
    block_c = min(1 << (num_columns - 1).bit_length(), LOGITS_PER_TILE)
    return max(LOGITS_PER_TILE // block_c, 1), block_c
