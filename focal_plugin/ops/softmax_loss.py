"""
Sum of a loss of softmax logits over all anchors, at memory bandwidth.

The logits of an anchor are read in place, with those of the background as the last column. Their
gradient is written once.

Shape shorthand:
    ...: any leading shape, one entry per anchor
    C: number of columns, K+1: the classes, and last the background
    G, T: a tensor of logits in memory is G groups of C planes of T anchors: (G, C, T), see
        :mod:`~focal_plugin.ops.dense_loss`
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import softmax_loss_cpp, softmax_loss_eager, softmax_loss_triton
from .block_sum import loss_per_anchor, sum_over_anchors
from .dense_loss import blocks_of
from .dense_loss_block import Block
from .implementations import choose
from .layout import Layout
from .softmax_loss_block import Evaluate, Implementation, SoftmaxTerms

MODULES: dict[str, Implementation] = {
    "cpp": softmax_loss_cpp,
    "triton": softmax_loss_triton,
    "eager": softmax_loss_eager,
}


def softmax_loss(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    terms: SoftmaxTerms,
    *,
    scale: float | Tensor = 1.0,
    impl: str = "auto",
) -> Tensor:
    """
    Compute the loss of all anchors: scale * the sum of the loss of each anchor.

        x_t  = x_c - logsumexp of all other x,  c the label: softmax(x)_c = sigmoid(x_t)
        loss = weight_c * formula(x_t)

    The gradient of x_c is weight_c * formula'(x_t). The softmax of the others shares out its
    negative.

    Args:
        logits: (..., C), C >= 2, any floating dtype, computed in float32; or several such tensors,
            with as many labels. They are read in place as by
            :func:`~focal_plugin.ops.dense_loss`.
        labels: (...), integer in {-1 (ignored), 0..C-1}; not checked.
        terms: the formula, and the weight of each label.
        scale: factor of the sum, a number or a scalar tensor; a constant.
        impl: "cpp" (the extension; CPU), "triton" (CUDA), "eager" (PyTorch, in chunks), or "auto",
            the first of these that is available.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored. The logits of ignored
        anchors, NaN included, do not affect the loss or its gradient.

    Raises:
        ValueError: ``impl`` is none of these, or is not available for these tensors; the message
            gives the reason.

    Note:
        Threads, backward passes and small slopes are those of
        :func:`~focal_plugin.ops.dense_loss`. An anchor whose label has the logit inf, or all others
        have -inf, has the loss 0. Any other +inf, or a label's -inf, gives an infinite or NaN loss.
    """
    blocks = blocks_of(logits, labels)
    evaluate = _implementation(impl, blocks[0], terms)
    return sum_over_anchors(blocks, evaluate, terms, scale=scale)


def softmax_loss_per_anchor(
    logits: Tensor, labels: Tensor, terms: SoftmaxTerms, *, impl: str = "auto"
) -> Tensor:
    """
    Compute the loss of each anchor of one tensor.

    The arguments are those of :func:`softmax_loss`.

    Returns:
        float32 (...); 0 for ignored anchors. The backward pass computes the gradient from the
        logits, which are all that is stored until then.
    """
    (block,) = blocks_of(logits, labels)
    evaluate = _implementation(impl, block, terms)
    return Layout.of(logits).anchors_as_given(loss_per_anchor(block, evaluate, terms))


def _implementation(impl: str, block: Block, terms: SoftmaxTerms) -> Evaluate:
    device = block.logits.device
    chosen = choose(impl, device, lambda name: MODULES[name].why_not(block, terms))
    return MODULES[chosen].evaluate
