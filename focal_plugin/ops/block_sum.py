"""
Sum and loss per anchor of blocks of logits, with the gradient that an implementation computes.

Shape shorthand:
    K: number of columns of the logits
    G, T: a tensor of logits in memory is G groups of K planes of T anchors: (G, K, T)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .dense_loss_block import Block
from .formula import refuse_second_derivative
from .ordered_sum import ordered_sum

Evaluate = Callable[..., tuple[Tensor, Tensor | None]]
"""Function of an implementation, see :class:`~focal_plugin.ops.dense_loss_block.Evaluate`."""


def sum_over_anchors(
    blocks: list[Block],
    evaluate: Evaluate,
    terms: Any,
    *,
    scale: float | Tensor,
    slopes: Tensor | None = None,
) -> Tensor:
    """
    Compute the loss of all anchors: scale * the sum of the loss of each.

    Args:
        blocks: the logits; their gradients have the same layout.
        evaluate: the implementation.
        terms: what it evaluates.
        scale: a number or a scalar tensor; a constant.
        slopes: see :class:`~focal_plugin.ops.dense_loss_block.Evaluate`.

    Returns:
        float32 scalar. It can be differentiated once.
    """
    device = blocks[0].logits.device
    if not isinstance(scale, Tensor):
        scale = torch.full((), scale, device=device)  # filled by a kernel, without a blocking copy
    scale = scale.detach().to(device, torch.float32)
    loss: Tensor = _Sum.apply(
        evaluate, terms, scale, slopes, blocks, *(block.logits for block in blocks)
    )
    return loss


def loss_per_anchor(block: Block, evaluate: Evaluate, terms: Any) -> Tensor:
    """Compute the loss of each anchor of a block, float32 (G, T); see :func:`sum_over_anchors`."""
    loss: Tensor = _PerAnchor.apply(evaluate, terms, block, block.logits)
    return loss


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        evaluate: Evaluate,
        terms: Any,
        scale: Tensor,
        slopes: Tensor | None,
        blocks: list[Block],
        *logits: Tensor,
    ) -> Tensor:
        # On a GPU, a second computation costs less than finding out whether it must be scaled
        at_once = logits[0].device.type == "cpu" and any(ctx.needs_input_grad)
        total = torch.zeros((), dtype=torch.float64, device=scale.device)
        gradients = []
        for block in blocks:
            per_anchor, gradient = evaluate(block, terms, scale if at_once else None, slopes)
            total += ordered_sum(per_anchor.flatten())
            gradients.append(gradient)
        ctx.gradients = gradients if at_once else None
        ctx.evaluate, ctx.terms, ctx.scale = evaluate, terms, scale
        ctx.anchors = [(block.labels, block.quality) for block in blocks]
        ctx.save_for_backward(*logits)
        return (total * scale).float()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        # Handed over: changes by the receiver must not affect another backward pass
        gradients, ctx.gradients = ctx.gradients, None
        # Half precision is rounded after a factor, such as a loss scale that prevents underflow
        if gradients is None or (upstream != 1 and any(x.element_size() < 4 for x in gradients)):
            return None, None, None, None, None, *_Sum._gradients(ctx, ctx.scale * upstream)
        if upstream != 1:
            for gradient in gradients:
                gradient.mul_(upstream)
        return None, None, None, None, None, *gradients

    @staticmethod
    def _gradients(ctx: Any, factor: Tensor) -> list[Tensor | None]:
        return [
            ctx.evaluate(Block(logits, *anchors), ctx.terms, factor)[1]
            for anchors, logits in zip(ctx.anchors, ctx.saved_tensors, strict=True)
        ]


class _PerAnchor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, evaluate: Evaluate, terms: Any, block: Block, logits: Tensor) -> Tensor:
        ctx.evaluate, ctx.terms, ctx.anchors = evaluate, terms, (block.labels, block.quality)
        ctx.save_for_backward(logits)
        return evaluate(block, terms, None)[0]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        (logits,) = ctx.saved_tensors
        block = Block(logits, *ctx.anchors)
        return None, None, None, ctx.evaluate(block, ctx.terms, upstream.contiguous())[1]
