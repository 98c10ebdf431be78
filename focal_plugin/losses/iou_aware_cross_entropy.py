"""IoU-aware cross entropy: the target of a positive combines its score and its IoU."""

from __future__ import annotations

from torch import Tensor

from ..checks import check_option
from ..ops import Terms
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .elementwise import ElementwiseLoss, sum_of_terms
from .matchability_aware import SoftTarget
from .sigmoid_focal import Focal

LEAST_TARGET = 0.01
"""Lower limit of a target, the constant of the authors' code."""


def iou_aware_cross_entropy_loss(
    logits: Tensor, labels: Tensor, quality: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """
    Compute the IoU-aware cross entropy (IA-BCE), summed over all classes of anchors not ignored.

        IA-BCE(x) = -t * log(p) - (1 - t) * log(1 - p)   at the class of the label
                    p^gamma * -log(1 - p)                at all other classes
        t         = max(p^alpha * y^(1 - alpha), 0.01)

    y is the quality. The target t is a constant, and the weight p^gamma is not. The paper has
    several anchors for an object and multiplies t by a weight of their rank; here it is 1.

    (arXiv:2304.07527.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        quality: (...), IoU in [0, 1] of each decoded box with its ground truth. It is a constant,
            and is read only where the label is a class.
        alpha: share of the score in the target, in [0, 1].
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
class IoUAwareCrossEntropyLoss(ElementwiseLoss):
    """
    Module of :func:`iou_aware_cross_entropy_loss`, with the same options.

    Reported:
        none on RetinaNet; published for DETRs
    """

    needs_quality = True
    config_keys = {
        "alpha": "MODEL.FOCAL.CLS_LOSS.IA_BCE_ALPHA",
        "gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
    }

    @configurable
    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha = check_option("alpha", alpha, low=0, high=1)
        self.gamma = check_option("gamma", gamma, low=0)

    def terms(self, logits: Tensor) -> Terms:
        return _terms(self.alpha, self.gamma)


def _terms(alpha: float, gamma: float) -> Terms:
    positive = SoftTarget(quality_power=1 - alpha, score_power=alpha, least=LEAST_TARGET)
    return Terms(positive, Focal(gamma))
