"""
From (logits, integer labels) to a loss per anchor, for losses that see one signed logit at a time.

With y = 1 for an anchor's class and 0 for all others, x_t = (2y - 1) x is the logit of the truth:
p_t = sigmoid(x_t), and x_t > 0 means correctly classified. Cross entropy, focal loss, FL* and the
like are functions of x_t alone, weighted by alpha_t. No one-hot target is made: a label touches one
logit of its anchor, so only that one is gathered, negated and scattered back.

Shape shorthand:
    ...: any leading shape, one entry an anchor
    K: number of classes
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .build import IllegalOptionError

ALPHA_OFF = -1
"""What Detectron2 and fvcore write for "no alpha", where a None cannot be written."""


def signed_loss_per_anchor(
    loss_of_signed_logits: Callable[[Tensor], Tensor],
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float | None,
) -> Tensor:
    """
    Sum alpha_t * loss(x_t) over the classes of each anchor.

    Args:
        loss_of_signed_logits: elementwise, float32 (..., K) x_t -> (..., K).
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        alpha: weight of y = 1, in [0, 1]; 1 - alpha is that of y = 0. None: all weights are 1.

    Returns:
        float32 (...); 0 for ignored anchors, whose logits (NaN included) reach nothing.

    Raises:
        ValueError: shapes that do not fit, or a label outside -1..K (on a GPU, where looking for
            one would stall it, a device assertion instead).
    """
    _check_inputs(logits, labels)
    num_classes = logits.shape[-1]
    labels = labels.long()
    ignored = labels == -1
    positive = ~ignored & (labels != num_classes)
    # Background and ignored anchors point at some column, and leave it as it is. A label out of
    # range still points out of range, so that a GPU's gather refuses it.
    column = labels.masked_fill(~positive, 0).unsqueeze(-1)

    logits = logits.float().masked_fill(ignored.unsqueeze(-1), 0.0)
    at_label = logits.gather(-1, column)
    truth = torch.where(positive.unsqueeze(-1), at_label, -at_label)
    loss = loss_of_signed_logits((-logits).scatter(-1, column, truth))

    total = loss.sum(-1)
    if alpha is not None:
        extra = (2 * alpha - 1) * loss.gather(-1, column).squeeze(-1)
        total = (1 - alpha) * total + torch.where(positive, extra, torch.zeros_like(extra))
    return total.masked_fill(ignored, 0.0)


def check_alpha(alpha: float | None) -> float | None:
    """
    Returns:
        alpha, or None where it is off: None, or -1 as Detectron2 and fvcore write it.

    Raises:
        IllegalOptionError: alpha is none of these and outside [0, 1].
    """
    if alpha is None or alpha == ALPHA_OFF:
        return None
    if not 0 <= alpha <= 1:
        raise IllegalOptionError("alpha", f"must be in [0, 1], or -1 for off, got {alpha}")
    return alpha


def check_gamma(gamma: float, *, positive: bool = False) -> float:
    """
    Raises:
        IllegalOptionError: gamma < 0 (or gamma = 0 where it must be ``positive``), or not finite.
    """
    legal = gamma > 0 if positive else gamma >= 0
    if not legal or gamma == float("inf"):
        raise IllegalOptionError("gamma", f"must be {'>' if positive else '>='} 0, got {gamma}")
    return gamma


def _check_inputs(logits: Tensor, labels: Tensor) -> None:
    if logits.shape[:-1] != labels.shape or logits.dim() == 0:
        raise ValueError(
            "logits must be (..., K) and labels (...), got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.device.type == "cpu" and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < -1 or high > logits.shape[-1]:
            raise ValueError(
                f"labels must be in -1..{logits.shape[-1]} (K, background), got {low}..{high}"
            )
