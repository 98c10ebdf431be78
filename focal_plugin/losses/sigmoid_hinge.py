"""Hinge loss on the probability of the truth."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..checks import check_option
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY, ClassificationLoss
from .one_vs_rest import signed_loss_per_anchor


def sigmoid_hinge_loss(logits: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """
    Hinge loss on p_t, summed over all classes of all anchors not ignored.

        H(x_t) = max(0, margin - p_t)

    (arXiv:1708.02002 section 5.1, which found it unstable and gives no result and no margin.)

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        margin: in (0, 1]; an example with p_t above it has neither loss nor gradient.

    Returns:
        float32 scalar; 0 with a graph if no anchor is left.

    Raises:
        ValueError: an option or a label outside its legal range, or shapes that do not fit.

    Note:
        Its gradient p_t * (1 - p_t) vanishes for the most wrong examples too, not only for the
        easy ones.
    """
    return _per_anchor(logits, labels, _check_margin(margin)).sum()


@CLS_LOSS_REGISTRY.register()
class SigmoidHingeLoss(ClassificationLoss):
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

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        return _per_anchor(logits, labels, self.margin)


def _per_anchor(logits: Tensor, labels: Tensor, margin: float) -> Tensor:
    hinge = functools.partial(hinge_of_signed_logits, margin=margin)
    return signed_loss_per_anchor(hinge, logits, labels, alpha=None)


def hinge_of_signed_logits(x_t: Tensor, *, margin: float) -> Tensor:
    """max(0, margin - p_t), elementwise."""
    return torch.relu(torch.sigmoid(-x_t) - (1 - margin))  # 1 - p_t is not rounded to 0


def _check_margin(margin: float) -> float:
    return check_option("margin", margin, low=0, high=1, open_low=True)
