"""Asymmetric loss: separate focusing of positives and negatives, and a margin for negatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_option
from ..ops import Formula, Point, Terms, power
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .elementwise import ElementwiseLoss, sum_of_terms
from .sigmoid_focal import Focal

LEAST = 1e-30
"""Value of a probability that stands for 0."""


def asymmetric_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
) -> Tensor:
    """
    Compute the asymmetric loss (ASL), summed over all classes of all anchors that are not ignored.

        positive: (1 - p)^gamma_pos * -log(p)
        negative: p_m^gamma_neg * -log(1 - p_m),  p_m = max(p - clip, 0)

    (arXiv:2009.14119 section 2. The authors' code sums over a batch without a divisor. A detector
    divides the sum like that of any other loss.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        gamma_pos: focusing parameter of positives, >= 0.
        gamma_neg: focusing parameter of negatives, >= 0.
        clip: probability margin in [0, 1): negatives with p below it have no loss and no gradient.
            With 0 it is focal loss with two gammas.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.

    Note:
        The authors' code clamps probabilities at 1e-8, which removes the gradient of positives with
        x < -18.4. Here the loss of positives is computed in log space.
    """
    gamma_pos = check_option("gamma_pos", gamma_pos, low=0)
    gamma_neg = check_option("gamma_neg", gamma_neg, low=0)
    clip = check_option("clip", clip, low=0, high=1, open_high=True)
    return sum_of_terms(logits, labels, _terms(gamma_pos, gamma_neg, clip))


@CLS_LOSS_REGISTRY.register()
class AsymmetricLoss(ElementwiseLoss):
    """
    Module of :func:`asymmetric_loss`, with the same options.

    Reported:
        none for RetinaNet; multi-label classification
    """

    config_keys = {
        "gamma_pos": "MODEL.FOCAL.CLS_LOSS.ASL_GAMMA_POS",
        "gamma_neg": "MODEL.FOCAL.CLS_LOSS.ASL_GAMMA_NEG",
        "clip": "MODEL.FOCAL.CLS_LOSS.ASL_CLIP",
    }

    @configurable
    def __init__(
        self, *, gamma_pos: float = 1.0, gamma_neg: float = 4.0, clip: float = 0.05
    ) -> None:
        super().__init__()
        self.gamma_pos = check_option("gamma_pos", gamma_pos, low=0)
        self.gamma_neg = check_option("gamma_neg", gamma_neg, low=0)
        self.clip = check_option("clip", clip, low=0, high=1, open_high=True)

    def terms(self, logits: Tensor) -> Terms:
        return _terms(self.gamma_pos, self.gamma_neg, self.clip)


@dataclass(frozen=True)
class AsymmetricNegative(Formula):
    """p_m^gamma * -log(1 - p_m) of a negative, where p = 1 - p_t."""

    kernel = "asymmetric_negative"

    gamma: float | Tensor
    clip: float | Tensor

    @property
    def parameters(self) -> tuple[float | Tensor, ...]:
        return self.gamma, self.clip

    def value(self, at: Point) -> Tensor:
        p_m, one_minus_p_m = self._shifted(at)
        return power(p_m, self.gamma) * -torch.log(one_minus_p_m)

    def slope(self, at: Point) -> Tensor:
        p_m, one_minus_p_m = self._shifted(at)
        focusing = self.gamma * torch.log(one_minus_p_m) / p_m
        slope = at.p * at.q * power(p_m, self.gamma) * (focusing - 1 / one_minus_p_m)
        return slope * (p_m > LEAST)

    def _shifted(self, at: Point) -> tuple[Tensor, Tensor]:
        # 1 - p_m comes from 1 - p, because p rounds to 1. Below the margin it is 1, and p_m is not
        # 0, where p_m^gamma has no slope for gamma < 1.
        return (at.q - self.clip).clamp(min=LEAST), (at.p + self.clip).clamp(max=1.0)


def _terms(gamma_pos: float, gamma_neg: float, clip: float) -> Terms:
    # without a margin, use the formula that is also exact for small p
    negative = AsymmetricNegative(gamma_neg, clip) if clip else Focal(gamma_neg)
    return Terms(positive=Focal(gamma_pos), negative=negative)
