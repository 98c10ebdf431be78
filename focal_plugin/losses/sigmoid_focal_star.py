"""FL*, the alternate focal loss: cross entropy on a shifted and scaled logit."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..checks import check_finite, check_option
from ..ops import Formula, Point, Terms
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .elementwise import ElementwiseLoss, alpha_balanced, sum_of_terms
from .one_vs_rest import check_alpha


def sigmoid_focal_star_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    beta: float = 1.0,
) -> Tensor:
    """
    Compute FL*, summed over all classes of all anchors that are not ignored.

        FL*(x_t) = alpha_t * softplus(-(gamma * x_t + beta)) / gamma

    (arXiv:1708.02002 appendix A, eq. 8 and 9; its Table 3 has (gamma, beta) = (2, 1) and (4, 0).)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        alpha: weight of positives, in [0, 1]; negatives get 1 - alpha. None (or -1) sets all
            weights to 1.
        gamma: slope, > 0.
        beta: shift, finite. (gamma, beta) = (1, 0) gives cross entropy.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.

    Note:
        The gradient in x_t is p*_t - 1 with p*_t = sigmoid(gamma * x_t + beta). It is bounded by 1
        for every gamma. fvcore's `sigmoid_focal_loss_star` is the case beta = 0.
    """
    gamma = check_option("gamma", gamma, low=0, open_low=True)
    formula = FocalStar(gamma, check_finite("beta", beta))
    return sum_of_terms(logits, labels, alpha_balanced(formula, check_alpha(alpha)))


@CLS_LOSS_REGISTRY.register()
class SigmoidFocalStarLoss(ElementwiseLoss):
    """
    Module of :func:`sigmoid_focal_star_loss`, with the same options.

    Reported:
        RetinaNet R-50-FPN, COCO, 600 px: 33.8 (gamma 2, beta 1) and 33.9 (4, 0), focal loss 34.0
    """

    config_keys = {
        "alpha": "MODEL.RETINANET.FOCAL_LOSS_ALPHA",
        "gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
        "beta": "MODEL.FOCAL.CLS_LOSS.FL_STAR_BETA",
    }

    @configurable
    def __init__(
        self, *, alpha: float | None = 0.25, gamma: float = 2.0, beta: float = 1.0
    ) -> None:
        super().__init__()
        self.alpha = check_alpha(alpha)
        self.gamma = check_option("gamma", gamma, low=0, open_low=True)
        self.beta = check_finite("beta", beta)

    def terms(self, logits: Tensor) -> Terms:
        return alpha_balanced(FocalStar(self.gamma, self.beta), self.alpha)


@dataclass(frozen=True)
class FocalStar(Formula):
    """softplus(-(gamma * x_t + beta)) / gamma."""

    kernel = "focal_star"

    gamma: float | Tensor
    beta: float | Tensor

    @property
    def parameters(self) -> tuple[float | Tensor, ...]:
        return self.gamma, self.beta

    def value(self, at: Point) -> Tensor:
        return self._shifted(at).ce / self.gamma

    def slope(self, at: Point) -> Tensor:
        return -self._shifted(at).q

    def _shifted(self, at: Point) -> Point:
        return Point(self.gamma * at.x + self.beta)
