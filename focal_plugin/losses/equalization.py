"""Equalization loss: the objects of other classes do not suppress a rare class."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import PerClass, check_option, check_per_class
from ..ops import Terms, check_formula
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .elementwise import ElementwiseLoss, sum_of_terms
from .one_vs_rest import check_one_per_class
from .sigmoid_cross_entropy import CrossEntropy


def equalization_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    samples_per_class: PerClass,
    threshold: float = 1.76e-3,
) -> Tensor:
    """
    Compute the equalization loss (EQL), summed over all classes of all anchors not ignored.

        EQL(x) = sum over j of w_j * -log(p_t,j)
        w_j    = 0 if class j is rare and the label is another class, else 1

    A class is rare if its share of all objects is below the threshold. Background anchors suppress
    every class, as in cross entropy.

    (arXiv:2003.05176 section 3. In the paper, a frequency is the share of images with the class.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        samples_per_class: K numbers >= 0, the objects of each class in the training set. A
            sequence, a tensor, an array, or a mapping by class, such as a `Counter`.
        threshold: lambda, in [0, 1]; 0 gives cross entropy. The default is the paper's, for shares
            of images. The share of objects of the same class can be smaller or larger.

    Returns:
        float32 scalar; a differentiable 0 if every anchor is ignored.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.
    """
    terms = _terms(logits, _find_rare(samples_per_class, threshold))
    return sum_of_terms(logits, labels, terms)


@CLS_LOSS_REGISTRY.register()
class EqualizationLoss(ElementwiseLoss):
    """
    Module of :func:`equalization_loss`, with the same options.

    Without ``samples_per_class`` the loss can be built but not called. A trained detector can thus
    be evaluated without its training set.

    Reported:
        none on COCO; Mask R-CNN R-50, LVIS v0.5: 16.1 -> 18.6 AP over cross entropy
    """

    config_keys = {
        "samples_per_class": "MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS",
        "threshold": "MODEL.FOCAL.CLS_LOSS.EQL_THRESHOLD",
    }

    @configurable
    def __init__(self, *, samples_per_class: PerClass = (), threshold: float = 1.76e-3) -> None:
        super().__init__()
        self.samples_per_class = check_per_class("samples_per_class", samples_per_class, low=0)
        self.threshold = check_option("threshold", threshold, low=0, high=1)
        self.rare: Tensor
        self.register_buffer("rare", _find_rare(samples_per_class, threshold), persistent=False)

    def check(self, num_classes: int) -> None:
        check_formula(CrossEntropy())  # there may be no samples

    def terms(self, logits: Tensor) -> Terms:
        return _terms(logits, self.rare, key=self.key_of("samples_per_class"))


def _find_rare(samples_per_class: PerClass, threshold: float) -> Tensor:
    """Return the mask of the rare classes, bool (K,)."""
    samples = check_per_class("samples_per_class", samples_per_class, low=0)
    of_classes = torch.tensor(samples, dtype=torch.float64)
    threshold = check_option("threshold", threshold, low=0, high=1)
    return of_classes < threshold * of_classes.sum()


def _terms(logits: Tensor, rare: Tensor, key: str | None = None) -> Terms:
    rare = check_one_per_class("samples_per_class", rare, logits, key=key)
    return Terms(CrossEntropy(), CrossEntropy(), spared=rare)
