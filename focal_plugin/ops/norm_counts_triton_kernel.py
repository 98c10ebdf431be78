"""
Triton kernel of :mod:`~focal_plugin.ops.norm_counts_triton`.

Importing this file imports Triton.

Shape shorthand: G groups of K planes of T anchors, see :mod:`~focal_plugin.ops.dense_loss`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dense_loss_triton_kernel import bin_of, odds_and_q


@triton.jit(do_not_specialize=["num_logits", "K", "T"])
def norm_counts_kernel(
    logits: tl.tensor,
    labels: tl.tensor,
    counts: tl.tensor,
    num_logits: int,
    K: int,
    T: int,
    BINS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """
    Count TILES * BLOCK adjacent logits.

    Args:
        logits: (G, K, T).
        labels: (G, T).
        counts: (programs, WIDTH), where WIDTH is a power of 2 above BINS.
    """
    EXACT: tl.constexpr = logits.dtype.element_ty == tl.float32
    start = tl.program_id(0).to(tl.int64) * (TILES * BLOCK)
    total = tl.zeros([WIDTH], dtype=tl.int32)
    for tile in range(TILES):
        at = start + tile * BLOCK + tl.arange(0, BLOCK)
        exists = at < num_logits
        plane = at // T
        label = tl.load(labels + plane // K * T + at % T, mask=exists, other=-1)
        x = tl.load(logits + at, mask=exists, other=0.0).to(tl.float32)
        x_t = tl.where(label == plane % K, x, x * -1.0)
        _, q = odds_and_q(x_t, EXACT)
        index = tl.where(label < 0, BINS, bin_of(q, BINS))
        total += tl.histogram(index, WIDTH)
    tl.store(counts + tl.program_id(0) * WIDTH + tl.arange(0, WIDTH), total)
