"""
Softmax losses as functions of one signed logit per anchor, summed by :mod:`focal_plugin.ops`.

Let x_t be the logit of the label minus the logsumexp of all others. Then softmax(x)[label] =
sigmoid(x_t). Softmax cross entropy and its focal form are therefore their binary counterparts in
x_t, with the same stability.

Shape shorthand:
    ...: any leading shape, one entry per anchor
    K: number of classes; the logit of the background is the last of K+1
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops import Formula, SoftmaxTerms, softmax_loss, softmax_loss_per_anchor
from .base import ClassificationLoss
from .one_vs_rest import check_inputs


class SoftmaxLoss(ClassificationLoss):
    """Base class of the losses of one signed logit. A subclass implements :meth:`terms`."""

    softmax = True
    any_layout = True
    impl = "auto"

    def terms(self, logits: Tensor) -> SoftmaxTerms:
        """
        Return the loss formula of an anchor, and the weight of each label.

        Args:
            logits: (..., K+1), of which only the number and the device matter.
        """
        raise NotImplementedError

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        check_softmax_inputs(logits, labels)
        return softmax_loss_per_anchor(logits, labels, self.terms(logits), impl=self.impl)

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None) -> Tensor:
        return self.of_levels([logits], [labels])

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def of_levels(
        self,
        logits: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        quality: Sequence[Tensor] | None = None,
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        """Compute the loss like :meth:`ClassificationLoss.of_levels`, but in one operation."""
        for level in zip(logits, labels, strict=True):
            check_softmax_inputs(*level)
        loss = softmax_loss(logits, labels, self.terms(logits[0]), scale=scale, impl=self.impl)
        self.observe_levels(logits, labels)
        return loss


def check_softmax_inputs(logits: Tensor, labels: Tensor) -> None:
    """
    Raise an error if logits (..., K+1) and labels (...) do not match.

    Raises:
        ValueError: the shapes do not match, or (checked on the CPU only) a label is outside -1..K.
    """
    num_classes = logits.shape[-1] - 1 if logits.dim() else 0
    check_inputs(logits, labels, num_classes=num_classes)
    if num_classes < 1:
        raise ValueError(f"logits must be (..., K+1) with K >= 1, got {tuple(logits.shape)}")


def alpha_of_labels(formula: Formula, alpha: float | Tensor | None, logits: Tensor) -> SoftmaxTerms:
    """
    Return terms with the weights alpha_c.

    Args:
        alpha: weight of all classes, in [0, 1]; background has 1 - alpha. A tensor holds the
            weights themselves, (K+1,). None sets all weights to 1.
        logits: (..., K+1), of which only the number and the device matter.
    """
    if alpha is None:
        return SoftmaxTerms(formula)
    if isinstance(alpha, Tensor):
        return SoftmaxTerms(formula, alpha.to(logits.device, torch.float32).contiguous())
    weights = torch.full(logits.shape[-1:], float(alpha), device=logits.device)
    weights[-1:] = 1 - alpha
    return SoftmaxTerms(formula, weights)
