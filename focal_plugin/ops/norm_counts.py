"""
Count of the logits by the gradient norm |p - y| of their cross entropy.

The logits are read in place, like those of :mod:`~focal_plugin.ops.dense_loss`. Nothing as large
as they are is allocated.

Shape shorthand:
    ...: any leading shape, one entry per anchor
    K: number of classes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from . import norm_counts_cpp, norm_counts_eager, norm_counts_triton
from .dense_loss import blocks_of
from .dense_loss_block import Block
from .implementations import choose


class Implementation(Protocol):
    """Interface of an implementation's module."""

    def why_not(self, block: Block) -> str | None: ...

    def count(self, block: Block, bins: int) -> Tensor: ...


MODULES: dict[str, Implementation] = {
    "cpp": norm_counts_cpp,
    "triton": norm_counts_triton,
    "eager": norm_counts_eager,
}


def count_norms(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    *,
    bins: int,
    impl: str = "auto",
) -> Tensor:
    """
    Count the logits of all anchors by |p - y|, in equal bins of [0, 1].

    Each implementation finds the same bins as its formula "binned_cross_entropy".

    Args:
        logits, labels, impl: see :func:`~focal_plugin.ops.dense_loss`.
        bins: number of bins, >= 1.

    Returns:
        int64 (bins,), exact. A NaN is in the first bin. Ignored anchors are in none.

    Raises:
        ValueError: see :func:`~focal_plugin.ops.dense_loss`.
    """
    with torch.no_grad():
        blocks = blocks_of(logits, labels)
        device = blocks[0].logits.device
        chosen = choose(impl, device, lambda name: MODULES[name].why_not(blocks[0]))
        counts = [MODULES[chosen].count(block, bins) for block in blocks]
        return torch.stack(counts).sum(dim=0)
