"""Poly-1: focal loss, or cross entropy, with a free weight on its leading polynomial term."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_finite, check_option
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY, ClassificationLoss
from .one_vs_rest import check_alpha, one_vs_rest
from .sigmoid_focal import focal_of_signed_logits


def poly_focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    epsilon: float = 1.0,
) -> Tensor:
    """
    Poly-1 focal loss, summed over all classes of all anchors not ignored.

        PolyFL(x_t) = FL(x_t) + epsilon * (1 - p_t)^(gamma + 1)

    With gamma = 0 and alpha off it is Poly-1 cross entropy, CE + epsilon * (1 - p_t).

    (arXiv:2204.12511. As there, alpha weighs FL and leaves the added term alone.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        alpha: weight of positives in FL, in [0, 1]; negatives get 1 - alpha. None (or -1): off.
        gamma: focusing parameter, >= 0.
        epsilon: finite; may be negative. The best value depends on the task.

    Returns:
        float32 scalar; 0 with a graph if no anchor is left.

    Raises:
        ValueError: an option or a label outside its legal range, or shapes that do not fit.
    """
    gamma = check_option("gamma", gamma, low=0)
    return _per_anchor(
        logits, labels, check_alpha(alpha), gamma, check_finite("epsilon", epsilon)
    ).sum()


@CLS_LOSS_REGISTRY.register()
class PolyFocalLoss(ClassificationLoss):
    """
    Module of :func:`poly_focal_loss`, with the same options.

    Reported:
        none for RetinaNet; Mask R-CNN, COCO, box and mask recall: 47.2 -> 49.7 and 42.3 -> 44.4
    """

    config_keys = {
        "alpha": "MODEL.RETINANET.FOCAL_LOSS_ALPHA",
        "gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
        "epsilon": "MODEL.FOCAL.CLS_LOSS.POLY_EPSILON",
    }

    @configurable
    def __init__(
        self, *, alpha: float | None = 0.25, gamma: float = 2.0, epsilon: float = 1.0
    ) -> None:
        super().__init__()
        self.alpha = check_alpha(alpha)
        self.gamma = check_option("gamma", gamma, low=0)
        self.epsilon = check_finite("epsilon", epsilon)

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        return _per_anchor(logits, labels, self.alpha, self.gamma, self.epsilon)


def _per_anchor(
    logits: Tensor, labels: Tensor, alpha: float | None, gamma: float, epsilon: float
) -> Tensor:
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    poly = functools.partial(poly_focal_of_signed_logits, gamma=gamma, epsilon=epsilon)
    loss = one_vs_rest(
        logits,
        labels,
        positive=lambda x, _: poly(x, alpha_t=positive),
        negative=lambda x: poly(-x, alpha_t=negative),
    )
    return loss.positive + loss.negative


def poly_focal_of_signed_logits(
    x_t: Tensor, *, alpha_t: float, gamma: float, epsilon: float
) -> Tensor:
    """alpha_t * FL + epsilon * (1 - p_t)^(gamma + 1), elementwise, in log space."""
    focal = focal_of_signed_logits(x_t, gamma=gamma)
    return alpha_t * focal + epsilon * torch.exp(-(gamma + 1) * F.softplus(x_t))
