"""Equalized focal loss: more focusing and more weight for classes with little positive gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import PerClass, check_count, check_option
from ..ops import Point
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY, ClassificationLoss
from .gradient_ratio import GradientRatio, ratio_of_classes
from .one_vs_rest import check_alpha, check_one_per_class, one_vs_rest, sum_per_class
from .sigmoid_focal import Focal, focal_of_signed_logits


def equalized_focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gradient_ratio: PerClass | None = None,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    scale: float = 8.0,
) -> Tensor:
    """
    Compute the equalized focal loss (EFL), summed over all classes of all anchors not ignored.

        EFL(x_t) = alpha_t * (gamma_j / gamma) * (1 - p_t)^gamma_j * -log(p_t)
        gamma_j  = gamma + scale * (1 - G_j)

    G_j, in [0, 1], is the ratio of all positive to all negative gradients of logit j so far.

    (arXiv:2201.02593 section 3.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        gradient_ratio: (K,), G; clamped to [0, 1]. None sets it to 1, which gives focal loss.
        alpha: weight of positives, in [0, 1]; negatives get 1 - alpha. None (or -1) disables it.
        gamma: focusing parameter of a balanced class, > 0.
        scale: increase of gamma for a class without any positive gradient, >= 0.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.
    """
    alpha, gamma = check_alpha(alpha), check_option("gamma", gamma, low=0, open_low=True)
    scale = check_option("scale", scale, low=0)
    ratio = ratio_of_classes(gradient_ratio, logits, initial=1.0)
    gamma_j = _gamma_of_classes(ratio, gamma, scale)
    return _per_anchor(logits, labels, alpha, gamma, gamma_j).sum()


@CLS_LOSS_REGISTRY.register()
class EqualizedFocalLoss(ClassificationLoss):
    """
    Module of :func:`equalized_focal_loss`, which accumulates the gradients itself.

    Note:
        The gradient of each logit is computed in closed form from the logits and labels of the
        step, undivided. It is thus independent of hooks, levels and gradient accumulation. The
        ratio of a step applies from the next step on.

        A bias moves by the difference of its positive and negative gradients. In a long run the two
        sums are therefore close. If no ratio falls below 1, this is focal loss.

    Reported:
        none on COCO; RetinaNet-like R-50, LVIS v1: 25.7 -> 27.5 AP over focal loss
    """

    decomposes = False
    stateful = True
    config_keys = {
        "num_classes": "MODEL.RETINANET.NUM_CLASSES",
        "alpha": "MODEL.RETINANET.FOCAL_LOSS_ALPHA",
        "gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
        "scale": "MODEL.FOCAL.CLS_LOSS.EFL_SCALE",
    }

    @configurable
    def __init__(
        self,
        *,
        num_classes: int = 80,
        alpha: float | None = 0.25,
        gamma: float = 2.0,
        scale: float = 8.0,
    ) -> None:
        super().__init__()
        self.num_classes = check_count("num_classes", num_classes, low=1)
        self.alpha = check_alpha(alpha)
        self.gamma = check_option("gamma", gamma, low=0, open_low=True)
        self.scale = check_option("scale", scale, low=0)
        self.gradients = GradientRatio(self.num_classes, initial=1.0)

    @property
    def gamma_of_classes(self) -> Tensor:
        """Focusing parameter gamma_j of each class, (K,)."""
        return _gamma_of_classes(self.gradients.ratio(), self.gamma, self.scale)

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        return _per_anchor(
            logits,
            labels,
            self.alpha,
            self.gamma,
            self.gamma_of_classes,
            key=self.key_of("num_classes"),
        )

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        gamma_j = self.gamma_of_classes
        weight = gamma_j / self.gamma
        positive, negative = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        sums = sum_per_class(
            logits,
            labels,
            positive=lambda x, c: positive * weight[c] * focal_gradient_norm(x, gamma_j[c]),
            negative=lambda x: negative * weight * focal_gradient_norm(-x, gamma_j),
        )
        self.gradients.add(sums.positive, sums.negative)


def focal_gradient_norm(x_t: Tensor, gamma: Tensor) -> Tensor:
    """Compute |dFL/dx_t|, elementwise."""
    return -Focal(gamma).slope(Point(x_t))


def _gamma_of_classes(gradient_ratio: Tensor, gamma: float, scale: float) -> Tensor:
    return gamma + scale * (1 - gradient_ratio.float().clamp(0, 1))


def _per_anchor(
    logits: Tensor,
    labels: Tensor,
    alpha: float | None,
    gamma: float,
    gamma_j: Tensor,
    key: str | None = None,
) -> Tensor:
    gamma_j = check_one_per_class("gradient_ratio", gamma_j, logits, key=key)
    weight = gamma_j / gamma
    loss = one_vs_rest(
        logits,
        labels,
        positive=lambda x, c: weight[c] * focal_of_signed_logits(x, gamma=gamma_j[c]),
        negative=lambda x: weight * focal_of_signed_logits(-x, gamma=gamma_j),
    )
    if alpha is None:
        return loss.positive + loss.negative
    return alpha * loss.positive + (1 - alpha) * loss.negative
