"""
The sum of a loss over every class of every anchor, at the speed of memory: the logits are read
where they lie, by integer labels, and their gradient is written once.

Shape shorthand:
    ...: any leading shape, one entry an anchor
    K: number of classes
    G, T: a tensor of logits in memory is G groups of K planes of T anchors: (G, K, T). For a
        convolution's output in NCHW, G = N * A and T = H * W; where the K logits of an anchor lie
        side by side (channels last), T = 1
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import dense_loss_cpp, dense_loss_eager, dense_loss_triton
from .dense_loss_block import Block, Evaluate, Implementation, Terms
from .formula import refuse_second_derivative
from .implementations import choose

MODULES: dict[str, Implementation] = {
    "cpp": dense_loss_cpp,
    "triton": dense_loss_triton,
    "eager": dense_loss_eager,
}


def dense_loss(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    terms: Terms,
    *,
    quality: Tensor | Sequence[Tensor | None] | None = None,
    scale: float | Tensor = 1.0,
    impl: str = "auto",
) -> Tensor:
    """
    The loss of all anchors: scale * the sum of what each logit costs.

    Args:
        logits: (..., K), any floating dtype, computed in float32; or several such tensors, such as
            the levels of a feature pyramid, with as many labels. A permuted view of an NCHW output,
            (N, Hi, Wi, A, K), is read as it lies, without a copy; so is a contiguous tensor. Any
            other layout is copied first.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}; not checked.
        terms: what each logit costs.
        quality: (...), in [0, 1], for formulas that want it; a constant.
        scale: what the sum is multiplied by, a number or a scalar tensor; a constant.
        impl: "cpp" (the extension; CPU), "triton" (CUDA), "eager" (PyTorch, in chunks), or "auto",
            the first of these that can be had.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored. The logits of ignored anchors, NaN
        included, reach neither it nor its gradient.

    Raises:
        ValueError: ``impl`` is none of these, or cannot be had for these tensors and formulas; the
            message says why.

    Note:
        "cpp" gives the same bits for any number of threads, "eager" for one and two. On a CPU the
        gradient is computed with the loss, and handed over by the backward pass; a second backward
        pass computes it anew, as every one does on a GPU. It can be differentiated once. Slopes
        below 1e-20 are flushed to 0. Where a logit is infinite, so is the loss, or NaN.
    """
    blocks = [_Layout.of(x).block(x, y, z) for x, y, z in zip_levels(logits, labels, quality)]
    device = blocks[0].logits.device
    if not isinstance(scale, Tensor):
        scale = torch.full((), scale, device=device)  # by a kernel: nothing waits for a copy
    scale = scale.detach().to(device, torch.float32)
    evaluate = implementation(impl, blocks[0], terms)
    loss: Tensor = _Sum.apply(evaluate, terms, scale, blocks, *(block.logits for block in blocks))
    return loss


def dense_loss_per_anchor(
    logits: Tensor,
    labels: Tensor,
    terms: Terms,
    *,
    quality: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """
    Same arguments as :func:`dense_loss`, of one tensor, but summed over classes only.

    Returns:
        float32 (...); 0 for ignored anchors. The backward pass computes the gradient from the
        logits, which is all that is kept until then.
    """
    layout = _Layout.of(logits)
    block = layout.block(logits, labels, quality)
    evaluate = implementation(impl, block, terms)
    return layout.anchors_as_given(_PerAnchor.apply(evaluate, terms, block, block.logits))


def implementation(impl: str, block: Block, terms: Terms) -> Evaluate:
    """
    Raises:
        ValueError: ``impl`` is no implementation, or one that cannot be had here.
    """
    chosen = choose(impl, block.logits.device, lambda name: MODULES[name].why_not(block, terms))
    return MODULES[chosen].evaluate


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        evaluate: Evaluate,
        terms: Terms,
        scale: Tensor,
        blocks: list[Block],
        *logits: Tensor,
    ) -> Tensor:
        # On a GPU to compute it again costs less than to know whether it is to be scaled
        at_once = logits[0].device.type == "cpu" and any(ctx.needs_input_grad)
        total = torch.zeros((), dtype=torch.float64, device=scale.device)
        gradients = []
        for block in blocks:
            per_anchor, gradient = evaluate(block, terms, scale if at_once else None)
            total += _ordered_sum(per_anchor)
            gradients.append(gradient)
        ctx.gradients = gradients if at_once else None
        ctx.evaluate, ctx.terms, ctx.scale = evaluate, terms, scale
        ctx.anchors = [(block.labels, block.quality) for block in blocks]
        ctx.save_for_backward(*logits)
        return (total * scale).float()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        factor = ctx.scale * upstream
        if ctx.gradients is not None:
            # Handed over: what the receiver does with it must not show in another backward pass
            gradients, ctx.gradients = ctx.gradients, None
            if upstream != 1:
                for gradient in gradients:
                    gradient.mul_(upstream)
        else:
            gradients = [
                ctx.evaluate(Block(logits, *anchors), ctx.terms, factor)[1]
                for anchors, logits in zip(ctx.anchors, ctx.saved_tensors, strict=True)
            ]
        return (None, None, None, None, *gradients)


class _PerAnchor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, evaluate: Evaluate, terms: Terms, block: Block, logits: Tensor) -> Tensor:
        ctx.evaluate, ctx.terms, ctx.anchors = evaluate, terms, (block.labels, block.quality)
        ctx.save_for_backward(logits)
        return evaluate(block, terms, None)[0]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        (logits,) = ctx.saved_tensors
        block = Block(logits, *ctx.anchors)
        return None, None, None, ctx.evaluate(block, ctx.terms, upstream.contiguous())[1]


class _Layout(NamedTuple):
    """How a tensor (..., K) lies in memory."""

    order: tuple[int, ...]  # its dimensions, those furthest apart in memory first
    shape: tuple[int, int, int]  # (G, K, T)
    anchors: tuple[int, ...]  # (...)

    @classmethod
    def of(cls, logits: Tensor) -> _Layout:
        last = logits.dim() - 1
        strides = logits.stride()
        order = sorted(range(last + 1), key=lambda i: (-strides[i], i))
        if logits.is_contiguous() or not logits.permute(order).is_contiguous():
            order = list(range(last + 1))
        anchors, num_classes = logits.shape[:-1], logits.shape[-1]
        groups = math.prod(logits.shape[i] for i in order[: order.index(last)])
        shape = (groups, num_classes, math.prod(anchors) // max(groups, 1))
        if num_classes == 1:  # one plane of all anchors
            shape = (1, 1, math.prod(anchors))
        return cls(tuple(order), shape, tuple(anchors))

    def block(self, logits: Tensor, labels: Tensor, quality: Tensor | None) -> Block:
        if quality is not None:
            quality = self._anchors_in_memory(quality.detach().float())
        return Block(
            logits=logits.permute(self.order).reshape(self.shape).contiguous(),
            labels=self._anchors_in_memory(labels.int()),
            quality=quality,
        )

    def anchors_as_given(self, anchors: Tensor) -> Tensor:
        """(G, T) -> (...)."""
        order = self._order_of_anchors()
        in_memory = anchors.reshape([self.anchors[i] for i in order])
        return in_memory.permute([order.index(i) for i in range(len(order))])

    def _anchors_in_memory(self, anchors: Tensor) -> Tensor:
        """(...) -> (G, T), contiguous."""
        groups, _, num_anchors = self.shape
        return anchors.permute(self._order_of_anchors()).reshape(groups, num_anchors).contiguous()

    def _order_of_anchors(self) -> list[int]:
        last = len(self.order) - 1
        return [i for i in self.order if i != last]


def zip_levels(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    quality: Tensor | Sequence[Tensor | None] | None,
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """The logits, labels and quality of each level, of one tensor or several."""
    if isinstance(logits, Tensor):
        assert isinstance(labels, Tensor)
        assert quality is None or isinstance(quality, Tensor)
        return [(logits, labels, quality)]
    qualities = [None] * len(logits) if quality is None else quality
    return list(zip(logits, labels, qualities, strict=True))


def _ordered_sum(per_anchor: Tensor, width: int = 1024) -> Tensor:
    """float64 scalar, added up in an order that no number of threads changes."""
    if per_anchor.is_cuda:  # where the order depends on the shape alone
        return per_anchor.sum(dtype=torch.float64)
    sums = per_anchor.flatten().double()
    while sums.numel() > 1:
        sums = F.pad(sums, (0, -sums.numel() % width)).view(-1, width).sum(dim=1)
    return sums.sum()
