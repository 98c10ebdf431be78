"""GHM-C: cross entropy, weighted by the inverse density of its gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_count
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY, ClassificationLoss
from .gradient_density import GradientDensity, density_weights
from .one_vs_rest import check_inputs, one_vs_rest


def ghm_loss(logits: Tensor, labels: Tensor, *, bins: int = 30) -> Tensor:
    """
    Compute GHM-C over all classes of all anchors that are not ignored.

        GHM-C = 1/M * sum_i CE_i / count(bin of g_i),   g_i = |p_i - y_i|
        with M = number of bins that are not empty

    It is cross entropy with a lower weight for common gradient norms.

    (arXiv:1811.05181, GHM-C with its unit region approximation: in the paper, 1/N * N/M.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        bins: equal bins of g in [0, 1], an integer >= 1; 1 gives the mean of cross entropy.

    Returns:
        float32 scalar, a weighted mean, not to be divided by the number of positives; a
        differentiable 0 if every anchor is ignored.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.
    """
    weights_of = functools.partial(density_weights, bins=check_count("bins", bins, low=1))
    return _per_anchor(logits, labels, weights_of).sum()


@CLS_LOSS_REGISTRY.register()
class GHMLoss(ClassificationLoss):
    """
    Module of :func:`ghm_loss` with counts averaged over processes and steps.

    Its counts are the mean over all processes and, with momentum, over the previous steps. It
    equals the function at momentum 0 on one process, and before its first update.

    Reported:
        RetinaNet R-50-FPN, COCO: 35.6 -> 35.8 AP over focal loss
    """

    own_normalizer = True
    decomposes = False
    stateful = True
    config_keys = {
        "bins": "MODEL.FOCAL.CLS_LOSS.GHM_BINS",
        "momentum": "MODEL.FOCAL.CLS_LOSS.GHM_MOMENTUM",
    }

    @configurable
    def __init__(self, *, bins: int = 30, momentum: float = 0.75) -> None:
        """
        Initialize the loss.

        Args:
            bins: see :func:`ghm_loss`.
            momentum: weight of the previous counts, in [0, 1).
        """
        super().__init__()
        self.density = GradientDensity(bins=bins, momentum=momentum)
        self.bins = self.density.bins
        self.momentum = self.density.momentum

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        return _per_anchor(logits, labels, self.density.weights)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.density.update(_gradient_norms(logits, labels), labels != -1)


def _per_anchor(
    logits: Tensor, labels: Tensor, weights_of: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    weights = weights_of(_gradient_norms(logits, labels), labels != -1)  # (..., K)

    def positive(x: Tensor, classes: Tensor) -> Tensor:
        return F.softplus(-x) * weights.gather(-1, classes.unsqueeze(-1)).squeeze(-1)

    loss = one_vs_rest(
        logits, labels, positive=positive, negative=lambda x: F.softplus(x) * weights
    )
    return loss.positive + loss.negative


@torch.no_grad()
def _gradient_norms(logits: Tensor, labels: Tensor) -> Tensor:
    """Return |p - y|, float32 (..., K). The values of ignored anchors are undefined."""
    num_classes = logits.shape[-1] if logits.dim() else 0
    check_inputs(logits, labels, num_classes=num_classes)
    labels = labels.long()
    has_class = ((labels != -1) & (labels != num_classes)).unsqueeze(-1)
    column = labels.unsqueeze(-1).masked_fill(~has_class, 0)

    norms = torch.sigmoid(logits.float())
    at_label = norms.gather(-1, column)
    return norms.scatter_(-1, column, torch.where(has_class, 1 - at_label, at_label))
