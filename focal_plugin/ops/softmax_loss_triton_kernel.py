"""
Triton kernel of :mod:`~focal_plugin.ops.softmax_loss_triton`, like `csrc/softmax_loss_kernel.h`.

Importing this file imports Triton.

Shape shorthand: G groups of C planes of T anchors, see :mod:`~focal_plugin.ops.softmax_loss`. A
block is BLOCK_T anchors of one group, and BLOCK_C of their columns at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dense_loss_triton_kernel import cost, exp, flushed

LARGEST = tl.constexpr(3.4028234663852886e38)  # as in `softmax_loss_block.py`


@triton.jit(do_not_specialize=["num_blocks", "num_anchors"])
def softmax_loss_kernel(
    logits: tl.tensor,
    labels: tl.tensor,
    weights: tl.tensor,
    factor: tl.tensor,
    per_anchor: tl.tensor,
    gradient: tl.tensor,
    num_blocks: int,
    num_anchors: int,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    FACTOR_PER_ANCHOR: tl.constexpr,
    FORMULA: tl.constexpr,
    FORMULA_1: tl.constexpr,
    FORMULA_2: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """
    Compute all columns of BLOCK_T anchors.

    The first loop finds the logsumexp of all logits but the label's. The second one, which finds
    them in the cache, writes the gradient.

    Args:
        logits: (G, C, T); or (1, T, C) if ROWS. The ``gradient`` has the same layout.
        labels, per_anchor: (G, T).
        weights: (C,), of an anchor, by its label. None: 1.
        factor: (), or (G, T) if FACTOR_PER_ANCHOR. None, like the gradient, if no gradient is
            requested.
        num_anchors: T / ALIGNMENT, see `dense_loss_kernel`.
        FORMULA: name of a formula, followed by its parameters.
    """
    EXACT: tl.constexpr = logits.dtype.element_ty == tl.float32
    T = num_anchors.to(tl.int64) * ALIGNMENT  # int64, as there can be more than 2^31 logits
    group = tl.program_id(0) // num_blocks
    anchors = (tl.program_id(0) % num_blocks).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    in_group = anchors < T
    at = group * T + anchors
    label = tl.load(labels + at, mask=in_group, other=-1)
    valid = (label >= 0) & (label < C)
    plane = 1 if ROWS else T
    start = at * C if ROWS else group * T * C + anchors
    own = tl.load(logits + start + label * plane, mask=valid, other=0.0).to(tl.float32)

    tile = start[:, None] + tl.arange(0, BLOCK_C)[None, :] * plane
    largest = tl.full([BLOCK_T], -LARGEST, tl.float32)
    total = tl.zeros([BLOCK_T], dtype=tl.float32)
    for first in range(0, C, BLOCK_C):
        columns = first + tl.arange(0, BLOCK_C)[None, :]
        others = valid[:, None] & (columns < C) & (columns != label[:, None])
        x = tl.load(logits + tile, mask=others, other=-LARGEST).to(tl.float32)
        most = tl.maximum(largest, tl.max(x, axis=1))
        exponentials = tl.where(others, exp_of_difference(x, most[:, None], EXACT), 0.0)
        total = total * exp_of_difference(largest, most, EXACT) + tl.sum(exponentials, axis=1)
        largest = most
        tile += BLOCK_C * plane

    x_t = own - largest - tl.log(total)
    x_t = tl.minimum(x_t, LARGEST, propagate_nan=tl.PropagateNan.ALL)
    value, fall = cost(x_t, 0.0, FORMULA, FORMULA_1, FORMULA_2, 0.0, None, False, EXACT)
    fall = flushed(fall)
    weight = tl.full([BLOCK_T], 1.0, tl.float32)
    if weights is not None:
        weight = tl.load(weights + label, mask=valid, other=0.0)
    # The value of an ignored anchor may be NaN
    tl.store(per_anchor + at, tl.where(valid, weight * value, 0.0), mask=in_group)

    if gradient is not None:
        if FACTOR_PER_ANCHOR:
            scale = tl.load(factor + at, mask=in_group, other=0.0) * weight
        else:
            scale = tl.load(factor) * weight
        at_label = tl.where(valid, -fall * scale, 0.0)[:, None]
        share = (fall / total)[:, None]
        tile = start[:, None] + tl.arange(0, BLOCK_C)[None, :] * plane
        for first in range(0, C, BLOCK_C):
            columns = first + tl.arange(0, BLOCK_C)[None, :]
            others = valid[:, None] & (columns < C) & (columns != label[:, None])
            x = tl.load(logits + tile, mask=others, other=0.0).to(tl.float32)
            shared = flushed(exp_of_difference(x, largest[:, None], EXACT) * share)
            # at_label is also 0 for ignored anchors
            slope = tl.where(others, shared * scale[:, None], at_label)
            exists = in_group[:, None] & (columns < C)
            tl.store(gradient + tile, slope.to(gradient.dtype.element_ty), mask=exists)
            tile += BLOCK_C * plane


@triton.jit
def exp_of_difference(x: tl.tensor, largest: tl.tensor, EXACT: tl.constexpr) -> tl.tensor:
    """Compute exp(x - largest), at least exp(-87), for x up to the largest; a NaN stays one."""
    return exp(tl.maximum(x - largest, -87.0, propagate_nan=tl.PropagateNan.ALL), EXACT)
