"""Focal loss on sigmoid logits."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from ..registry import configurable
from .build import CLS_LOSS_REGISTRY, ClassificationLoss
from .one_vs_rest import check_alpha, check_option, signed_loss_per_anchor

IMPLEMENTATIONS = ("auto", "eager")


def sigmoid_focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    impl: str = "auto",
) -> Tensor:
    """
    Focal loss, summed over all classes of all anchors not ignored.

        FL(x_t) = alpha_t * (1 - p_t)^gamma * -log(p_t)

    (arXiv:1708.02002 eq. 5; the defaults are the best row of its Table 1b.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        alpha: weight of positives, in [0, 1]; negatives get 1 - alpha. None (or -1): off, all
            weights are 1.
        gamma: focusing parameter, >= 0; 0 is (alpha-balanced) cross entropy.
        impl: "eager" (PyTorch operations), or "auto": the fastest there is.

    Returns:
        float32 scalar; 0 with a graph if no anchor is left.

    Raises:
        ValueError: an option or a label outside its legal range, or shapes that do not fit.

    Note:
        Computed in log space, (1 - p_t)^gamma = exp(-gamma * softplus(x_t)). The power form, with
        1 - p_t rounded to 0, has a NaN gradient for every 0 < gamma < 1 from x_t = 17 on; this one
        is finite in value and gradient for every gamma >= 0 and every finite logit.
    """
    _check_impl(impl)
    return _per_anchor(
        logits, labels, check_alpha(alpha), check_option("gamma", gamma, low=0)
    ).sum()


@CLS_LOSS_REGISTRY.register()
class SigmoidFocalLoss(ClassificationLoss):
    """Module of :func:`sigmoid_focal_loss`, with the same options."""

    config_keys = {
        "alpha": "MODEL.RETINANET.FOCAL_LOSS_ALPHA",
        "gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
    }

    @configurable
    def __init__(
        self, *, alpha: float | None = 0.25, gamma: float = 2.0, impl: str = "auto"
    ) -> None:
        super().__init__()
        _check_impl(impl)
        self.alpha = check_alpha(alpha)
        self.gamma = check_option("gamma", gamma, low=0)

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        return _per_anchor(logits, labels, self.alpha, self.gamma)


def _per_anchor(logits: Tensor, labels: Tensor, alpha: float | None, gamma: float) -> Tensor:
    focal = functools.partial(focal_of_signed_logits, gamma=gamma)
    return signed_loss_per_anchor(focal, logits, labels, alpha=alpha)


def focal_of_signed_logits(x_t: Tensor, *, gamma: float) -> Tensor:
    """(1 - p_t)^gamma * -log(p_t), elementwise, in log space."""
    cross_entropy = F.softplus(-x_t)
    if gamma == 0:
        return cross_entropy
    # -log(1 - p_t) = softplus(x_t)
    return cross_entropy * torch.exp(-gamma * F.softplus(x_t))


def _check_impl(impl: str) -> None:
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {IMPLEMENTATIONS}, got {impl!r}")
