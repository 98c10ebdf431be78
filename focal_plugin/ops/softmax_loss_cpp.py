"""C++ implementation of :mod:`~focal_plugin.ops.softmax_loss`, see `csrc/softmax_loss.cpp`."""

from __future__ import annotations

import torch
from torch import Tensor

from .dense_loss_block import Block
from .dense_loss_cpp import DTYPES
from .implementations import why_no_cpp
from .recycled import empty_recycled
from .softmax_loss_block import SoftmaxTerms, why_no_kernel


def why_not(block: Block, terms: SoftmaxTerms) -> str | None:
    """Return the reason why it cannot be used for this block, or None."""
    return why_no_kernel(block, terms, DTYPES) or why_no_cpp(block.logits.device)


def evaluate(
    block: Block, terms: SoftmaxTerms, factor: Tensor | None, slopes: None = None
) -> tuple[Tensor, Tensor | None]:
    """Compute loss and gradient, see :class:`~focal_plugin.ops.softmax_loss_block.Evaluate`."""
    per_anchor = torch.empty(block.labels.shape)
    gradient = None if factor is None else empty_recycled(block.logits)
    torch.ops.focal_plugin.softmax_loss(
        block.logits,
        block.labels,
        terms.weights,
        terms.formula.kernel,
        terms.parameters(),
        factor,
        per_anchor,
        gradient,
    )
    return per_anchor, gradient
