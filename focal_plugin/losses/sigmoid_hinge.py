"""Hinge loss on the probability of the true label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_option
from ..ops import Formula, Point, Terms
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .elementwise import ElementwiseLoss, alpha_balanced, sum_of_terms


def sigmoid_hinge_loss(logits: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """
    Compute the hinge loss on p_t, summed over all classes of all anchors that are not ignored.

        H(x_t) = max(0, margin - p_t)

    (arXiv:1708.02002 section 5.1, which reports it as unstable, without a result or a margin.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        margin: in (0, 1]; an example with p_t above it has neither loss nor gradient.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.

    Note:
        The gradient p_t * (1 - p_t) vanishes for the most wrong examples too, not only for the
        easy ones.
    """
    return sum_of_terms(logits, labels, alpha_balanced(Hinge(_check_margin(margin)), None))


@CLS_LOSS_REGISTRY.register()
class SigmoidHingeLoss(ElementwiseLoss):
    """
    Module of :func:`sigmoid_hinge_loss`, with the same options.

    Reported:
        none: unstable
    """

    config_keys = {"margin": "MODEL.FOCAL.CLS_LOSS.HINGE_MARGIN"}

    @configurable
    def __init__(self, *, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = _check_margin(margin)

    def terms(self, logits: Tensor) -> Terms:
        return alpha_balanced(Hinge(self.margin), None)


@dataclass(frozen=True)
class Hinge(Formula):
    """max(0, margin - p_t)."""

    kernel = "hinge"

    margin: float | Tensor

    @property
    def parameters(self) -> tuple[float | Tensor, ...]:
        return (self.margin,)

    def value(self, at: Point) -> Tensor:
        return torch.relu(at.q - (1 - self.margin))  # 1 - p_t is not rounded to 0

    def slope(self, at: Point) -> Tensor:
        return -at.p * at.q * (at.q > 1 - self.margin)


def _check_margin(margin: float) -> float:
    return check_option("margin", margin, low=0, high=1, open_low=True)
