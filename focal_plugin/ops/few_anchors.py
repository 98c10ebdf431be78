"""
Evaluation of only the anchors that count, if they are few, as after mining.

Shape shorthand:
    K: number of classes
    G, T: a tensor of logits in memory is G groups of K planes of T anchors: (G, K, T)
    V: anchors that count
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dense_loss_block import Block, Evaluate, Terms
from .recycled import empty_recycled


def evaluate_counted(
    evaluate: Evaluate,
    block: Block,
    terms: Terms,
    factor: Tensor | None,
    slopes: Tensor | None,
    *,
    few: float,
) -> tuple[Tensor, Tensor | None]:
    """
    Compute loss and gradient as ``evaluate`` does, but do not read the ignored anchors of many.

    The gradient of ignored anchors is cleared in one go, which is faster than anchor by anchor.

    Args:
        evaluate: function that computes all anchors of a block.
        block, terms, factor, slopes: its arguments.
        few: share of anchors that count below which the others are skipped.
    """
    counts = block.labels >= 0
    if int(counts.count_nonzero()) >= few * counts.numel():
        return evaluate(block, terms, factor, slopes)
    group, anchor = counts.nonzero(as_tuple=True)
    per_anchor = torch.zeros(counts.shape, device=counts.device)
    gradient = None if factor is None else empty_recycled(block.logits).zero_()
    some = Block(
        logits=block.logits[group, :, anchor].unsqueeze(2),  # (V, K, 1)
        labels=block.labels[counts].unsqueeze(1),
        quality=None if block.quality is None else block.quality[counts].unsqueeze(1),
    )
    if factor is not None and factor.dim():
        factor = factor[counts].unsqueeze(1)
    loss, slope = evaluate(some, terms, factor, slopes)
    per_anchor[counts] = loss.squeeze(1)
    if gradient is not None and slope is not None:
        gradient[group, :, anchor] = slope.squeeze(2)
    return per_anchor, gradient
