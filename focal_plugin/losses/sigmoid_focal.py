"""Focal loss on sigmoid logits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..checks import PerClass, check_option
from ..ops import Formula, Point, Terms, check_impl
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .class_alpha import (
    ALPHA,
    check_class_alpha,
    check_class_alpha_or_auto,
    require_numbers,
)
from .elementwise import ElementwiseLoss, alpha_balanced, sum_of_terms
from .one_vs_rest import check_alpha, check_one_per_class


def sigmoid_focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float | None = ALPHA,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    class_alpha: PerClass = (),
    impl: str = "auto",
) -> Tensor:
    """
    Compute the focal loss, summed over all classes of all anchors that are not ignored.

        FL(x_t) = alpha_t * (1 - p_t)^gamma * -log(p_t)

    (arXiv:1708.02002 eq. 5; the defaults are the best row of its Table 1b.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        alpha: weight of positives, in [0, 1]; negatives get 1 - alpha. None (or -1) sets all
            weights to 1.
        gamma: focusing parameter, >= 0; 0 gives (alpha-balanced) cross entropy.
        label_smoothing: s in [0, 1). The targets of the cross entropy become 1 - s/2 and s/2;
            (1 - p_t)^gamma and alpha_t keep the hard label.
        class_alpha: K numbers in [0, 1], one alpha per class, which replace ``alpha``: logit k
            weights its positives by alpha_k and its negatives by 1 - alpha_k. A sequence, a tensor,
            an array, or a mapping by class. Empty disables it.
        impl: "cpp" (CPU), "triton" (CUDA), "eager" (PyTorch operations), or "auto", the fastest
            available one, see :func:`~focal_plugin.ops.dense_loss`.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored.

    Raises:
        ValueError: an option or a label is outside its legal range, the shapes do not match, or
            ``impl`` is not available.

    Note:
        1 - p_t is sigmoid(-x_t), and the gradient has its own formula. The common implementation
        rounds 1 - p_t to 0 and differentiates with autograd. Its gradient is NaN for every
        0 < gamma < 1 from x_t = 17 on. Here value and gradient are finite for every gamma >= 0 and
        every logit up to 1e30.

        Many tutorials show gamma = 0.5 without alpha, for one class, from log(sigmoid(x)). That is
        this loss with alpha=None and gamma=0.5, wherever it is defined (-88 < x < 16.6).
    """
    smoothing = check_option("label_smoothing", label_smoothing, low=0, high=1, open_high=True)
    formula = Focal(check_option("gamma", gamma, low=0), smoothing)
    weight: float | Tensor | None = check_alpha(alpha)
    of_classes = check_class_alpha(class_alpha)
    if len(of_classes):
        weight = check_one_per_class("class_alpha", of_classes, logits)
    return sum_of_terms(logits, labels, alpha_balanced(formula, weight), impl=check_impl(impl))


@CLS_LOSS_REGISTRY.register()
class SigmoidFocalLoss(ElementwiseLoss):
    """
    Module of :func:`sigmoid_focal_loss`, with the same options.

    Its ``class_alpha`` may be "auto" in a config. `train_net.py` then replaces it, see
    :func:`~focal_plugin.losses.class_alpha_of_counts`. Until then, the loss can be built but not
    called.

    Reported:
        RetinaNet R-50-FPN, COCO, 600 px: 31.1 -> 34.0 AP over alpha-balanced cross entropy
    """

    config_keys = {
        "alpha": "MODEL.RETINANET.FOCAL_LOSS_ALPHA",
        "gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
        "label_smoothing": "MODEL.FOCAL.CLS_LOSS.LABEL_SMOOTHING",
        "class_alpha": "MODEL.FOCAL.CLS_LOSS.CLASS_ALPHA",
    }

    @configurable
    def __init__(
        self,
        *,
        alpha: float | None = ALPHA,
        gamma: float = 2.0,
        label_smoothing: float = 0.0,
        class_alpha: PerClass | str = (),
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self.impl = check_impl(impl)
        self.alpha = check_alpha(alpha)
        self.gamma = check_option("gamma", gamma, low=0)
        self.label_smoothing = check_option(
            "label_smoothing", label_smoothing, low=0, high=1, open_high=True
        )
        self.class_alpha: Tensor | None
        of_classes = check_class_alpha_or_auto(class_alpha)
        self.register_buffer("class_alpha", of_classes, persistent=False)

    def check(self, num_classes: int) -> None:
        if self.class_alpha is not None:
            super().check(num_classes)

    def terms(self, logits: Tensor) -> Terms:
        alpha: float | Tensor | None = self.alpha
        key = self.key_of("class_alpha")
        of_classes = require_numbers(self.class_alpha, key=key)
        if len(of_classes):
            alpha = check_one_per_class("class_alpha", of_classes, logits, key=key)
        return alpha_balanced(Focal(self.gamma, self.label_smoothing), alpha)


@dataclass(frozen=True)
class Focal(Formula):
    """(1 - p_t)^gamma * cross entropy with smoothed targets."""

    kernel = "focal"

    gamma: float | Tensor
    label_smoothing: float = 0.0

    @property
    def parameters(self) -> tuple[float | Tensor, ...]:
        return self.gamma, self.label_smoothing

    def value(self, at: Point) -> Tensor:
        return at.q_power(self.gamma) * self._cross_entropy(at)

    def slope(self, at: Point) -> Tensor:
        # d(1 - p_t)/dx_t = -p_t * (1 - p_t)
        focusing = self.gamma * at.p * self._cross_entropy(at)
        return at.q_power(self.gamma) * (self.label_smoothing / 2 - at.q - focusing)

    def _cross_entropy(self, at: Point) -> Tensor:
        # (1 - s/2) * softplus(-x_t) + s/2 * softplus(x_t), as softplus(x) - softplus(-x) = x
        if self.label_smoothing:
            return at.ce + self.label_smoothing / 2 * at.x
        return at.ce
