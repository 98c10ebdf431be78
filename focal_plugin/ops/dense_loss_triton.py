"""Triton implementation of :mod:`~focal_plugin.ops.dense_loss`, for GPUs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .dense_loss_block import (
    Block,
    Terms,
    has_parameters_per_class,
    parameter_table,
    why_no_kernel,
)
from .formula import Formula
from .implementations import why_no_triton

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

LOGITS_PER_TILE = 2048
LOGITS_PER_WARP = 512
"""16 logits per thread: enough loads in flight to hide their latency, without register spills."""


def why_not(block: Block, terms: Terms) -> str | None:
    """Return the reason why it cannot be used for this block, or None."""
    return why_no_kernel(block, terms, DTYPES) or why_no_triton(block.logits.device)


def evaluate(
    block: Block, terms: Terms, factor: Tensor | None, slopes: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Compute loss and gradient, see :class:`~focal_plugin.ops.dense_loss_block.Evaluate`."""
    from .dense_loss_triton_kernel import dense_loss_kernel  # imported here, as it imports Triton

    logits = block.logits
    per_anchor = torch.empty(block.labels.shape, device=logits.device)
    gradient = None if factor is None else torch.empty_like(logits)
    if logits.numel() == 0:
        return per_anchor.zero_(), gradient
    num_groups, num_classes, num_anchors = logits.shape
    rows = num_anchors == 1
    if rows:  # all in one group
        num_groups, num_anchors = 1, num_groups
    block_t, block_k = tile_of(num_anchors, num_classes, rows)
    num_blocks = -(-num_anchors // block_t)
    alignment = math.gcd(num_anchors, 16)
    weights = None
    numbers = terms.positive_weight, terms.negative_weight
    if terms.spared is not None or any(isinstance(x, Tensor) for x in numbers):
        weights, numbers = terms.weights(num_classes, logits.device), (1.0, 1.0)
    of_programs = None
    if slopes is not None:
        of_programs = logits.new_empty(num_groups * num_blocks, *slopes.shape, dtype=torch.float32)
    with torch.cuda.device_of(logits):
        dense_loss_kernel[(num_groups * num_blocks,)](
            logits,
            block.labels,
            block.quality,
            weights,
            terms.anchor_weight,
            _parameters_per_class(terms.positive, num_classes, logits.device),
            terms.positive.table,
            _parameters_per_class(terms.negative, num_classes, logits.device),
            terms.negative.table,
            factor,
            per_anchor,
            gradient,
            of_programs,
            *map(float, numbers),
            num_blocks,
            num_anchors // alignment,
            K=num_classes,
            ROWS=rows,
            ALIGNMENT=alignment,
            FACTOR_PER_ANCHOR=factor is not None and factor.dim() > 0,
            SPARES=terms.spared is not None,
            **_constants("POSITIVE", terms.positive),
            **_constants("NEGATIVE", terms.negative),
            BLOCK_T=block_t,
            BLOCK_K=block_k,
            num_warps=max(block_t * block_k // LOGITS_PER_WARP, 1),
        )
    if slopes is not None and of_programs is not None:
        slopes += of_programs.sum(dim=0, dtype=torch.float64)
    return per_anchor, gradient


def tile_of(num_anchors: int, num_classes: int, rows: bool) -> tuple[int, int]:
    """
    Return the number of anchors and of classes that a program holds in its registers at a time.

    The dimension with adjacent elements comes first, because only its loads are vectorized.
    """
    if rows:
        block_k = _width(num_classes, 64)
        return _width(num_anchors, LOGITS_PER_TILE // block_k), block_k
    block_t = _width(num_anchors, 512)
    return block_t, _width(num_classes, LOGITS_PER_TILE // block_t)


def _width(length: int, most: int) -> int:
    """Return the largest power of two up to ``most`` that pads ``length`` by at most an eighth."""
    widths = [1 << i for i in range(2, most.bit_length())]
    fitting = [width for width in widths if 8 * (-length % width) <= length]
    return max(fitting, default=min(1 << (length - 1).bit_length(), most))


def _parameters_per_class(
    formula: Formula, num_classes: int, device: torch.device
) -> Tensor | None:
    """Return the parameters of a kernel, (4, K), or None if all of them are numbers."""
    per_class = has_parameters_per_class(formula)
    return parameter_table(formula, num_classes, device) if per_class else None


def _constants(which: str, formula: Formula) -> dict[str, str | float]:
    """
    Return POSITIVE and POSITIVE_1 to POSITIVE_3 (or NEGATIVE ...); missing parameters are 0.

    The number of entries of a table is the only parameter of a formula that has one. Parameters of
    all classes are no constants, and left out.
    """
    assert formula.kernel is not None
    numbers: tuple[float | Tensor, ...] = formula.parameters
    if formula.table is not None:
        numbers = (len(formula.table),)
    elif has_parameters_per_class(formula):
        numbers = ()
    constants = [float(x) for x in (*numbers, 0.0, 0.0, 0.0)[:3]]
    return {which: formula.kernel} | {f"{which}_{i}": x for i, x in enumerate(constants, start=1)}
