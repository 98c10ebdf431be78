"""Class-balanced focal loss: classes weighted by their effective number of samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..checks import PerClass, check_option, check_per_class
from ..ops import Terms, check_formula
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .elementwise import ElementwiseLoss, sum_of_terms
from .one_vs_rest import check_one_per_class
from .sigmoid_focal import Focal


def class_balanced_focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    samples_per_class: PerClass,
    cb_beta: float = 0.999,
    gamma: float = 2.0,
) -> Tensor:
    """
    Compute the class-balanced focal loss, summed over all classes of all anchors not ignored.

        CB(x_t) = w_c * (1 - p_t)^gamma * -log(p_t),  w_c = s * (1 - cb_beta) / (1 - cb_beta^n_c)

    Here c is the label of the anchor and n_c its number of samples. The factor s makes the w_c sum
    to K. The paper has no background. Here a background anchor has the weight 1, the mean over all
    classes, and counts for no n_c. The weight replaces alpha.

    (arXiv:1901.05555 sections 3 and 4.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        samples_per_class: K numbers >= 0, the objects of each class in the training set. A class
            without objects is weighted like a class with one sample. A sequence, a tensor, an
            array, or a mapping by class, such as a `Counter`.
        cb_beta: in [0, 1). With 0 all weights are equal. Near 1 they are inverse frequencies.
        gamma: focusing parameter, >= 0.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.
    """
    weights = effective_number_weights(samples_per_class, cb_beta)
    terms = _terms(logits, weights, check_option("gamma", gamma, low=0))
    return sum_of_terms(logits, labels, terms)


@CLS_LOSS_REGISTRY.register()
class ClassBalancedFocalLoss(ElementwiseLoss):
    """
    Module of :func:`class_balanced_focal_loss`, with the same options.

    Without ``samples_per_class`` the loss can be built but not called. A trained detector can thus
    be evaluated without its training set.

    Reported:
        none on COCO; image classification
    """

    config_keys = {
        "samples_per_class": "MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS",
        "cb_beta": "MODEL.FOCAL.CLS_LOSS.CB_BETA",
        "gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
    }

    @configurable
    def __init__(
        self, *, samples_per_class: PerClass = (), cb_beta: float = 0.999, gamma: float = 2.0
    ) -> None:
        super().__init__()
        self.samples_per_class = check_per_class("samples_per_class", samples_per_class, low=0)
        self.cb_beta = check_option("cb_beta", cb_beta, low=0, high=1, open_high=True)
        self.gamma = check_option("gamma", gamma, low=0)
        self.weights: Tensor
        weights = effective_number_weights(samples_per_class, cb_beta)
        self.register_buffer("weights", weights, persistent=False)

    def check(self, num_classes: int) -> None:
        check_formula(Focal(self.gamma))  # there may be no samples

    def terms(self, logits: Tensor) -> Terms:
        return _terms(logits, self.weights, self.gamma, key=self.key_of("samples_per_class"))


def effective_number_weights(samples_per_class: PerClass, cb_beta: float) -> Tensor:
    """
    Compute the weight of each class.

    Returns:
        float32 (K,), inversely proportional to the effective numbers, with a mean of 1.

    Raises:
        IllegalOptionError: cb_beta is not in [0, 1), or a number of samples is negative.
    """
    beta = check_option("cb_beta", cb_beta, low=0, high=1, open_high=True)
    log_beta = math.log(beta) if beta > 0 else -math.inf
    inverse = [
        -1 / math.expm1(max(samples, 1) * log_beta)
        for samples in check_per_class("samples_per_class", samples_per_class, low=0)
    ]
    weights = torch.tensor(inverse, dtype=torch.float64)
    return (weights / weights.mean()).float()


def _terms(logits: Tensor, weights: Tensor, gamma: float, key: str | None = None) -> Terms:
    weights = check_one_per_class("samples_per_class", weights, logits, key=key)
    weight_of_background = weights.new_ones(1)
    focal = Focal(gamma)
    return Terms(focal, focal, anchor_weight=torch.cat([weights, weight_of_background]))
