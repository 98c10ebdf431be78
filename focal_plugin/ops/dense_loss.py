"""
Sum of a loss over every class of every anchor, at memory bandwidth.

The logits are read in place, by integer labels, and their gradient is written once.

Shape shorthand:
    ...: any leading shape, one entry per anchor
    K: number of classes
    G, T: a tensor of logits in memory is G groups of K planes of T anchors: (G, K, T). For the
        output of a convolution in NCHW, G = N * A and T = H * W. If the K logits of an anchor are
        adjacent (channels last), T = 1
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import dense_loss_cpp, dense_loss_eager, dense_loss_triton
from .block_sum import loss_per_anchor, sum_over_anchors
from .dense_loss_block import Block, Evaluate, Implementation, Terms
from .formula_check import check_formula
from .implementations import choose
from .layout import Layout

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
    slopes: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """
    Compute the loss of all anchors: scale * the sum of the loss of each logit.

    Args:
        logits: (..., K), any floating dtype, computed in float32; or several such tensors, such as
            the levels of a feature pyramid, with as many labels. A permuted view of an NCHW output,
            (N, Hi, Wi, A, K), is read in place, without a copy; so is a contiguous tensor. Any
            other layout is copied first.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}; not checked.
        terms: the loss formula of each logit.
        quality: (...), in [0, 1], for formulas that require it; a constant.
        scale: factor of the sum, a number or a scalar tensor; a constant.
        slopes: float64 (2, K), to which the sums of |weight * slope| of each class are added,
            without the scale: row 0 for positives, row 1 for negatives. None: they are not
            computed.
        impl: "cpp" (the extension; CPU), "triton" (CUDA), "eager" (PyTorch, in chunks), or "auto",
            the first of these that is available.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored. The logits of ignored
        anchors, NaN included, do not affect the loss or its gradient.

    Raises:
        ValueError: ``impl`` is none of these, or is not available for these tensors and formulas;
            the message gives the reason.

    Note:
        "cpp" returns the same bits for any number of threads, "eager" for one and two threads. On a
        CPU the forward pass computes the gradient, and the backward pass hands it over. A second
        backward pass computes it again, as every backward pass does on a GPU. The loss can be
        differentiated once. Slopes below 1e-20 are flushed to 0. An infinite logit gives an
        infinite or NaN loss.
    """
    blocks = blocks_of(logits, labels, quality)
    evaluate = implementation(impl, blocks[0], terms)
    return sum_over_anchors(blocks, evaluate, terms, scale=scale, slopes=slopes)


def dense_loss_per_anchor(
    logits: Tensor,
    labels: Tensor,
    terms: Terms,
    *,
    quality: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """
    Compute the loss of each anchor of one tensor, summed over classes only.

    The arguments are those of :func:`dense_loss`.

    Returns:
        float32 (...); 0 for ignored anchors. The backward pass computes the gradient from the
        logits, which are all that is stored until then.
    """
    layout = Layout.of(logits)
    block = _block(layout, logits, labels, quality)
    evaluate = implementation(impl, block, terms)
    return layout.anchors_as_given(loss_per_anchor(block, evaluate, terms))


def implementation(impl: str, block: Block, terms: Terms) -> Evaluate:
    """
    Return the function that evaluates the terms of a block with ``impl``.

    Raises:
        ValueError: ``impl`` is unknown, or is not available here; or a formula computes another
            loss there, see :func:`~focal_plugin.ops.check_formula`.
    """
    device = block.logits.device
    chosen = choose(impl, device, lambda name: MODULES[name].why_not(block, terms))
    evaluate = MODULES[chosen].evaluate
    for formula in terms.formulas:
        check_formula(formula, evaluate, device)
    return evaluate


def blocks_of(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    quality: Tensor | Sequence[Tensor | None] | None = None,
) -> list[Block]:
    """Return the block of each level, of one tensor or several."""
    return [_block(Layout.of(x), x, y, z) for x, y, z in zip_levels(logits, labels, quality)]


def _block(layout: Layout, logits: Tensor, labels: Tensor, quality: Tensor | None) -> Block:
    if quality is not None:
        quality = layout.anchors_in_memory(quality.detach().float())
    return Block(
        logits=layout.logits_in_memory(logits),
        labels=layout.anchors_in_memory(labels.int()),
        quality=quality,
    )


def zip_levels(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    quality: Tensor | Sequence[Tensor | None] | None,
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Return the logits, labels and quality of each level, of one tensor or several."""
    if isinstance(logits, Tensor):
        if not isinstance(labels, Tensor):
            raise TypeError(f"labels must be a tensor, got {type(labels).__name__}")
        assert quality is None or isinstance(quality, Tensor)
        return [(logits, labels, quality)]
    qualities = [None] * len(logits) if quality is None else quality
    return list(zip(logits, labels, qualities, strict=True))
