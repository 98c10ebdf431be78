"""
Losses of independent logits, summed by :mod:`focal_plugin.ops`.

One formula applies to the logit that the label names, and another one to all other logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops import Formula, Terms, check_formula, dense_loss, dense_loss_per_anchor
from ..ops.dense_loss import zip_levels
from .base import ClassificationLoss
from .one_vs_rest import check_inputs, check_quality


class ElementwiseLoss(ClassificationLoss):
    """Base class of the losses of independent logits. A subclass implements :meth:`terms`."""

    any_layout = True
    impl = "auto"

    def terms(self, logits: Tensor) -> Terms:
        """
        Return the loss formula of each logit.

        Args:
            logits: (..., K), of which only the number and the device matter.
        """
        raise NotImplementedError

    def check(self, num_classes: int) -> None:
        """
        Check both formulas, see :func:`~focal_plugin.ops.check_formula`.

        Raises:
            FormulaError: two numbers of a formula differ that should be equal.
        """
        if not any(buffer.is_meta for buffer in self.buffers()):
            for formula in self.terms(torch.zeros(0, num_classes, device="cpu")).formulas:
                check_formula(formula)

    def terms_of_levels(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Terms:
        """Return the loss formula of each logit of a step; by default :meth:`terms`."""
        return self.terms(logits[0])

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        of_level = None if quality is None else [quality]
        return self.per_anchor_of_levels([logits], [labels], quality=of_level)[0]

    def per_anchor_of_levels(
        self,
        logits: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        quality: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        terms = self.terms_of_levels(logits, labels)
        qualities: Sequence[Tensor | None] = quality or [None] * len(logits)
        levels = zip(logits, labels, qualities, strict=True)
        return [per_anchor_of_terms(x, y, terms, quality=z, impl=self.impl) for x, y, z in levels]

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None) -> Tensor:
        return self.of_levels([logits], [labels], quality=None if quality is None else [quality])

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
        terms = self.terms_of_levels(logits, labels)
        loss = sum_of_terms(logits, labels, terms, quality=quality, scale=scale, impl=self.impl)
        self.observe_levels(logits, labels)
        return loss


def sum_of_terms(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    terms: Terms,
    *,
    quality: Tensor | Sequence[Tensor | None] | None = None,
    scale: float | Tensor = 1.0,
    slopes: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """
    Compute the loss like :func:`~focal_plugin.ops.dense_loss`, but check the input.

    Labels and qualities are checked on the CPU only.

    Raises:
        ValueError: the shapes do not match, a label is outside -1..K, or a quality is outside
            [0, 1].
    """
    levels = zip_levels(logits, labels, quality)
    qualities = [_checked_quality(x, y, terms, z) for x, y, z in levels]
    return dense_loss(
        [x for x, _, _ in levels],
        [y for _, y, _ in levels],
        terms,
        quality=qualities,
        scale=scale,
        slopes=slopes,
        impl=impl,
    )


def per_anchor_of_terms(
    logits: Tensor,
    labels: Tensor,
    terms: Terms,
    *,
    quality: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """
    Compute the loss like :func:`~focal_plugin.ops.dense_loss_per_anchor`, but check the input.

    The checks are those of :func:`sum_of_terms`.
    """
    quality = _checked_quality(logits, labels, terms, quality)
    return dense_loss_per_anchor(logits, labels, terms, quality=quality, impl=impl)


def alpha_balanced(formula: Formula, alpha: float | Tensor | None) -> Terms:
    """
    Return terms with one formula for all logits, weighted by alpha.

    Args:
        alpha: weight of positives, in [0, 1]; negatives have 1 - alpha. One number, or one number
            per class, (K,). None sets all weights to 1.
    """
    if alpha is None:
        return Terms(formula, formula)
    return Terms(formula, formula, positive_weight=alpha, negative_weight=1 - alpha)


def _checked_quality(
    logits: Tensor, labels: Tensor, terms: Terms, quality: Tensor | None
) -> Tensor | None:
    """Return the checked quality, or None if the formulas do not use it."""
    num_classes = logits.shape[-1] if logits.dim() else 0
    check_inputs(logits, labels, num_classes=num_classes)
    if not terms.positive.wants_quality:
        return None
    return check_quality(quality, labels, num_classes=num_classes)
