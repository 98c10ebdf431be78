"""Varifocal loss: positives weighted by the IoU of their box, negatives by a focal factor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_option
from ..ops import Formula, Point, Terms
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .elementwise import ElementwiseLoss, sum_of_terms
from .quality_focal import soft_cross_entropy
from .sigmoid_focal import Focal


def varifocal_loss(
    logits: Tensor, labels: Tensor, quality: Tensor, *, alpha: float = 0.75, gamma: float = 2.0
) -> Tensor:
    """
    Compute the varifocal loss (VFL), summed over all classes of all anchors not ignored.

        VFL(x) = y * (-y * log(p) - (1 - y) * log(1 - p))   if y > 0
                 alpha * p^gamma * -log(1 - p)              if y = 0

    y is the quality at the class of the label and 0 everywhere else. A positive whose box misses
    its object has y = 0 and counts as a negative.

    (arXiv:2008.13367 eq. 2.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        quality: (...), IoU in [0, 1] of each decoded box with its ground truth. It is a constant,
            and is read only where the label is a class.
        alpha: weight of negatives, in [0, 1].
        gamma: focusing parameter of negatives, >= 0.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.
    """
    alpha = check_option("alpha", alpha, low=0, high=1)
    terms = _terms(alpha, check_option("gamma", gamma, low=0))
    return sum_of_terms(logits, labels, terms, quality=quality)


@CLS_LOSS_REGISTRY.register()
class VarifocalLoss(ElementwiseLoss):
    """
    Module of :func:`varifocal_loss`, with the same options.

    Reported:
        RetinaNet R-50-FPN, COCO: 36.5 -> 37.4 AP over focal loss
    """

    needs_quality = True
    config_keys = {
        "alpha": "MODEL.FOCAL.CLS_LOSS.VFL_ALPHA",
        "gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
    }

    @configurable
    def __init__(self, *, alpha: float = 0.75, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha = check_option("alpha", alpha, low=0, high=1)
        self.gamma = check_option("gamma", gamma, low=0)

    def terms(self, logits: Tensor) -> Terms:
        return _terms(self.alpha, self.gamma)


@dataclass(frozen=True)
class Varifocal(Formula):
    """y * cross entropy with the soft target y, or the loss of a negative if y = 0."""

    kernel = "varifocal"
    wants_quality = True

    alpha: float
    gamma: float

    @property
    def parameters(self) -> tuple[float, ...]:
        return self.alpha, self.gamma

    def value(self, at: Point) -> Tensor:
        missed = self.alpha * at.p**self.gamma * at.ce_of_q
        return torch.where(at.quality == 0, missed, at.quality * soft_cross_entropy(at))

    def slope(self, at: Point) -> Tensor:
        missed = self.alpha * at.p**self.gamma * (self.gamma * at.q * at.ce_of_q + at.p)
        return torch.where(at.quality == 0, missed, at.quality * (at.p - at.quality))


def _terms(alpha: float, gamma: float) -> Terms:
    return Terms(positive=Varifocal(alpha, gamma), negative=Focal(gamma), negative_weight=alpha)
