"""FL*, the alternate focal loss: cross entropy on a shifted and scaled logit."""

from __future__ import annotations

import functools

from torch import Tensor
from torch.nn import functional as F

from ..checks import check_finite, check_option
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY, ClassificationLoss
from .one_vs_rest import check_alpha, signed_loss_per_anchor


def sigmoid_focal_star_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    beta: float = 1.0,
) -> Tensor:
    """
    FL*, summed over all classes of all anchors not ignored.

        FL*(x_t) = alpha_t * softplus(-(gamma * x_t + beta)) / gamma

    (arXiv:1708.02002 appendix A, eq. 8 and 9; its Table 3 has (gamma, beta) = (2, 1) and (4, 0).)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        alpha: weight of positives, in [0, 1]; negatives get 1 - alpha. None (or -1): off, all
            weights are 1.
        gamma: slope, > 0.
        beta: shift, finite. (gamma, beta) = (1, 0) is cross entropy.

    Returns:
        float32 scalar; 0 with a graph if no anchor is left.

    Raises:
        ValueError: an option or a label outside its legal range, or shapes that do not fit.

    Note:
        Its gradient in x_t is p*_t - 1 with p*_t = sigmoid(gamma * x_t + beta): bounded by 1
        whatever gamma is. fvcore's `sigmoid_focal_loss_star` is this with beta = 0.
    """
    gamma = check_option("gamma", gamma, low=0, open_low=True)
    return _per_anchor(logits, labels, check_alpha(alpha), gamma, check_finite("beta", beta)).sum()


@CLS_LOSS_REGISTRY.register()
class SigmoidFocalStarLoss(ClassificationLoss):
    """
    Module of :func:`sigmoid_focal_star_loss`, with the same options.

    Reported:
        RetinaNet R-50-FPN, COCO, 600 px: 33.8 (gamma 2, beta 1) and 33.9 (4, 0), focal loss 34.0
    """

    config_keys = {
        "alpha": "MODEL.RETINANET.FOCAL_LOSS_ALPHA",
        "gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
        "beta": "MODEL.FOCAL.CLS_LOSS.BETA",
    }

    @configurable
    def __init__(
        self, *, alpha: float | None = 0.25, gamma: float = 2.0, beta: float = 1.0
    ) -> None:
        super().__init__()
        self.alpha = check_alpha(alpha)
        self.gamma = check_option("gamma", gamma, low=0, open_low=True)
        self.beta = check_finite("beta", beta)

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        return _per_anchor(logits, labels, self.alpha, self.gamma, self.beta)


def _per_anchor(
    logits: Tensor, labels: Tensor, alpha: float | None, gamma: float, beta: float
) -> Tensor:
    star = functools.partial(focal_star_of_signed_logits, gamma=gamma, beta=beta)
    return signed_loss_per_anchor(star, logits, labels, alpha=alpha)


def focal_star_of_signed_logits(x_t: Tensor, *, gamma: float, beta: float) -> Tensor:
    """softplus(-(gamma * x_t + beta)) / gamma, elementwise."""
    return F.softplus(-(gamma * x_t + beta)) / gamma
