"""Focal loss on softmax logits, with the background as an extra class."""

from __future__ import annotations

from torch import Tensor

from ..checks import PerClass, check_option
from ..ops import SoftmaxTerms, softmax_loss
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .class_alpha import (
    ALPHA,
    check_class_alpha,
    check_class_alpha_or_auto,
    require_numbers,
)
from .one_vs_rest import check_alpha, check_one_per_class
from .sigmoid_focal import Focal
from .softmax import SoftmaxLoss, alpha_of_labels, check_softmax_inputs


def softmax_focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float | None = ALPHA,
    gamma: float = 2.0,
    class_alpha: PerClass = (),
) -> Tensor:
    """
    Compute the softmax focal loss, summed over all anchors that are not ignored.

        FL(x) = -alpha_c * (1 - p_c)^gamma * log(p_c),  p = softmax(x), c the label

    (arXiv:1708.02002 eq. 5, with K+1 classes instead of K binary classifiers.)

    Args:
        logits: (..., K+1), background last; any floating dtype, computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        alpha: weight of all classes, in [0, 1]; background gets 1 - alpha. None (or -1) sets all
            weights to 1.
        gamma: focusing parameter, >= 0; 0 gives softmax cross entropy.
        class_alpha: K+1 numbers in [0, 1], background last: alpha_c of each class, which replace
            ``alpha``. A sequence, a tensor, an array, or a mapping by class. Empty disables it.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.

    Note:
        The loss is computed in log space, like :func:`sigmoid_focal_loss`. Value and gradient are
        finite for every gamma >= 0. The power form has NaN gradients for gamma < 1.
    """
    formula = Focal(check_option("gamma", gamma, low=0))
    weight: float | Tensor | None = check_alpha(alpha)
    of_classes = check_class_alpha(class_alpha)
    check_softmax_inputs(logits, labels)
    if len(of_classes):
        weight = check_one_per_class("class_alpha", of_classes, logits)
    return softmax_loss(logits, labels, alpha_of_labels(formula, weight, logits))


@CLS_LOSS_REGISTRY.register()
class SoftmaxFocalLoss(SoftmaxLoss):
    """
    Module of :func:`softmax_focal_loss`, with the same options.

    Its ``class_alpha`` may be "auto" in a config, as that of
    :class:`~focal_plugin.losses.SigmoidFocalLoss`.

    Reported:
        none, although the code of the focal loss authors includes it
    """

    config_keys = {
        "alpha": "MODEL.RETINANET.FOCAL_LOSS_ALPHA",
        "gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
        "class_alpha": "MODEL.FOCAL.CLS_LOSS.CLASS_ALPHA",
    }

    @configurable
    def __init__(
        self,
        *,
        alpha: float | None = ALPHA,
        gamma: float = 2.0,
        class_alpha: PerClass | str = (),
    ) -> None:
        super().__init__()
        self.alpha = check_alpha(alpha)
        self.gamma = check_option("gamma", gamma, low=0)
        self.class_alpha: Tensor | None
        of_classes = check_class_alpha_or_auto(class_alpha)
        self.register_buffer("class_alpha", of_classes, persistent=False)

    def terms(self, logits: Tensor) -> SoftmaxTerms:
        alpha: float | Tensor | None = self.alpha
        key = self.key_of("class_alpha")
        of_classes = require_numbers(self.class_alpha, key=key)
        if len(of_classes):
            alpha = check_one_per_class("class_alpha", of_classes, logits, key=key)
        return alpha_of_labels(Focal(self.gamma), alpha, logits)
