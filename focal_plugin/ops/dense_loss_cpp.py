"""C++ implementation of :mod:`~focal_plugin.ops.dense_loss`, see `csrc/dense_loss.cpp`."""

from __future__ import annotations

import torch
from torch import Tensor

from .dense_loss_block import Block, Terms, parameter_table, why_no_kernel
from .few_anchors import evaluate_counted
from .implementations import why_no_cpp
from .recycled import empty_recycled

DTYPES = (torch.float32, torch.bfloat16)

FEW = 1 / 32
"""Share of anchors that count below which the others are skipped. More are faster in sequence."""


def why_not(block: Block, terms: Terms) -> str | None:
    """Return the reason why it cannot be used for this block, or None."""
    return why_no_kernel(block, terms, DTYPES) or why_no_cpp(block.logits.device)


def evaluate(
    block: Block, terms: Terms, factor: Tensor | None, slopes: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Compute loss and gradient, see :class:`~focal_plugin.ops.dense_loss_block.Evaluate`."""
    return evaluate_counted(_evaluate_all, block, terms, factor, slopes, few=FEW)


def _evaluate_all(
    block: Block, terms: Terms, factor: Tensor | None, slopes: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    per_anchor = torch.empty(block.labels.shape)
    gradient = None if factor is None else empty_recycled(block.logits)
    num_classes, device = block.logits.shape[1], block.logits.device
    torch.ops.focal_plugin.dense_loss(
        block.logits,
        block.labels,
        block.quality,
        terms.weights(num_classes, device),
        terms.anchor_weight,
        terms.positive.kernel,
        parameter_table(terms.positive, num_classes, device),
        terms.positive.table,
        terms.negative.kernel,
        parameter_table(terms.negative, num_classes, device),
        terms.negative.table,
        factor,
        per_anchor,
        gradient,
        slopes,
    )
    return per_anchor, gradient
