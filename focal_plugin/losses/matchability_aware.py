"""Matchability-aware loss: a power of the IoU is the target of a positive."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..checks import check_option
from ..ops import Formula, Point, Terms
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .elementwise import ElementwiseLoss, sum_of_terms


def matchability_aware_loss(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor,
    *,
    gamma: float = 1.5,
    alpha: float | None = None,
) -> Tensor:
    """
    Compute the matchability-aware loss (MAL), summed over all classes of all anchors not ignored.

        MAL(x) = -y^gamma * log(p) - (1 - y^gamma) * log(1 - p)   at the class of the label
                 alpha * p^gamma * -log(1 - p)                    at all other classes

    y is the quality. Unlike the varifocal loss, a positive of low quality keeps the weight 1. The
    weight p^gamma is a constant: the gradient of a negative is alpha * p^(gamma + 1).

    (arXiv:2412.04234.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        quality: (...), IoU in [0, 1] of each decoded box with its ground truth. It is a constant,
            and is read only where the label is a class.
        gamma: exponent of the quality and of p, >= 0.
        alpha: weight of negatives, in [0, 1]; None sets it to 1.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.
    """
    terms = _terms(check_option("gamma", gamma, low=0), _check_alpha(alpha))
    return sum_of_terms(logits, labels, terms, quality=quality)


@CLS_LOSS_REGISTRY.register()
class MatchabilityAwareLoss(ElementwiseLoss):
    """
    Module of :func:`matchability_aware_loss`, with the same options.

    Reported:
        none on RetinaNet; published for DETRs with dense one-to-one matching
    """

    needs_quality = True
    config_keys = {
        "gamma": "MODEL.FOCAL.CLS_LOSS.MAL_GAMMA",
        "alpha": "MODEL.FOCAL.CLS_LOSS.MAL_ALPHA",
    }

    @configurable
    def __init__(self, *, gamma: float = 1.5, alpha: float | None = None) -> None:
        super().__init__()
        self.gamma = check_option("gamma", gamma, low=0)
        self.alpha = _check_alpha(alpha)

    def terms(self, logits: Tensor) -> Terms:
        return _terms(self.gamma, self.alpha)


@dataclass(frozen=True)
class SoftTarget(Formula):
    """Cross entropy of a positive with the target max(p^b * y^a, c), a constant for the slope."""

    kernel = "soft_target"
    wants_quality = True

    quality_power: float  # a
    score_power: float = 0.0  # b
    least: float = 0.0  # c

    @property
    def parameters(self) -> tuple[float, ...]:
        return self.quality_power, self.score_power, self.least

    def value(self, at: Point) -> Tensor:
        target = self._target(at)
        return target * at.ce + (1 - target) * at.ce_of_q

    def slope(self, at: Point) -> Tensor:
        return at.p - self._target(at)

    def _target(self, at: Point) -> Tensor:
        aligned = at.p.detach() ** self.score_power * at.quality**self.quality_power
        return aligned.clamp(min=self.least)


@dataclass(frozen=True)
class DetachedFocal(Formula):
    """(1 - p_t)^gamma * cross entropy; the slope treats the weight as a constant."""

    kernel = "detached_focal"

    gamma: float | Tensor

    @property
    def parameters(self) -> tuple[float | Tensor, ...]:
        return (self.gamma,)

    def value(self, at: Point) -> Tensor:
        return self._weight(at) * at.ce

    def slope(self, at: Point) -> Tensor:
        return -self._weight(at) * at.q

    def _weight(self, at: Point) -> Tensor | float:
        weight = at.q_power(self.gamma)
        return weight.detach() if isinstance(weight, Tensor) else weight


def _terms(gamma: float, alpha: float) -> Terms:
    return Terms(SoftTarget(gamma), DetachedFocal(gamma), negative_weight=alpha)


def _check_alpha(alpha: float | None) -> float:
    return 1.0 if alpha is None else check_option("alpha", alpha, low=0, high=1)
