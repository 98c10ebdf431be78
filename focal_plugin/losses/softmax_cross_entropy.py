"""Cross entropy on softmax logits, with the background as an extra class."""

from __future__ import annotations

from torch import Tensor

from ..ops import SoftmaxTerms, softmax_loss
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .one_vs_rest import check_alpha
from .sigmoid_cross_entropy import CrossEntropy
from .softmax import SoftmaxLoss, alpha_of_labels, check_softmax_inputs


def softmax_cross_entropy_loss(
    logits: Tensor, labels: Tensor, *, alpha: float | None = None
) -> Tensor:
    """
    Compute the softmax cross entropy, summed over all anchors that are not ignored.

        CE(x) = -alpha_c * log(p_c),  p = softmax(x), c the label

    (arXiv:1708.02002 eq. 1 and 3, with K+1 classes instead of K binary classifiers.)

    Args:
        logits: (..., K+1), background last; any floating dtype, computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        alpha: weight of all classes, in [0, 1]; background gets 1 - alpha. None (or -1) sets all
            weights to 1.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.
    """
    weight = check_alpha(alpha)
    check_softmax_inputs(logits, labels)
    return softmax_loss(logits, labels, alpha_of_labels(CrossEntropy(), weight, logits))


@CLS_LOSS_REGISTRY.register()
class SoftmaxCrossEntropyLoss(SoftmaxLoss):
    """
    Module of :func:`softmax_cross_entropy_loss`, with the same options.

    Note:
        Alpha has Detectron2's key, whose default of 0.25 belongs to focal loss. For plain cross
        entropy, set `MODEL.RETINANET.FOCAL_LOSS_ALPHA -1`.

    Reported:
        none for RetinaNet
    """

    config_keys = {"alpha": "MODEL.RETINANET.FOCAL_LOSS_ALPHA"}

    @configurable
    def __init__(self, *, alpha: float | None = None) -> None:
        super().__init__()
        self.alpha = check_alpha(alpha)

    def terms(self, logits: Tensor) -> SoftmaxTerms:
        return alpha_of_labels(CrossEntropy(), self.alpha, logits)
