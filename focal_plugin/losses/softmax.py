"""
Softmax losses as functions of one signed logit per anchor.

Let x_t be the logit of the label minus the logsumexp of all others. Then softmax(x)[label] =
sigmoid(x_t). Softmax cross entropy and its focal form are therefore their binary counterparts in
x_t, with the same stability.

Shape shorthand:
    ...: any leading shape, one entry per anchor
    K: number of classes; the logit of the background is the last of K+1
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .one_vs_rest import check_inputs


def softmax_loss_per_anchor(
    loss_of_signed_logits: Callable[[Tensor], Tensor],
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float | Tensor | None,
) -> Tensor:
    """
    Compute alpha_t * loss(x_t) of each anchor.

    Args:
        loss_of_signed_logits: elementwise, float32 x_t (...) -> (...).
        logits: (..., K+1), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        alpha: weight of all classes, in [0, 1]; background has 1 - alpha. A tensor holds the
            weights themselves, (K+1,), on the device of the logits. None sets all weights to 1.

    Returns:
        float32 (...); 0 for ignored anchors, whose logits, NaN included, have no effect.

    Raises:
        ValueError: the shapes do not match, or (checked on the CPU only) a label is outside -1..K.
    """
    num_classes = logits.shape[-1] - 1 if logits.dim() else 0
    check_inputs(logits, labels, num_classes=num_classes)
    if num_classes < 1:
        raise ValueError(f"logits must be (..., K+1) with K >= 1, got {tuple(logits.shape)}")
    ignored = labels == -1
    labels = labels.long().masked_fill(ignored, num_classes)
    logits = logits.float().masked_fill(ignored.unsqueeze(-1), 0.0)
    column = labels.unsqueeze(-1)
    others = logits.scatter(-1, column, float("-inf")).logsumexp(-1)
    loss = loss_of_signed_logits(logits.gather(-1, column).squeeze(-1) - others)
    if isinstance(alpha, Tensor):
        loss = alpha[labels] * loss
    elif alpha is not None:
        is_background = labels == num_classes
        loss = torch.where(is_background, (1 - alpha) * loss, alpha * loss)
    return loss.masked_fill(ignored, 0.0)
