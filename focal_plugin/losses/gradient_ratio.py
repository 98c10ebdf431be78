"""Accumulated positive and negative gradient of each class, over all steps and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..checks import PerClass, check_count, check_per_class
from .elementwise import ElementwiseLoss, sum_of_terms
from .processes import mean_over_processes


def ratio_of_classes(gradient_ratio: PerClass | None, logits: Tensor, *, initial: float) -> Tensor:
    """
    Return a given ratio, or ``initial`` for each class of logits (..., K) if there is none: (K,).

    Raises:
        IllegalOptionError: it is not one number >= 0 for each class.
    """
    if gradient_ratio is None:
        return torch.full(logits.shape[-1:], initial, device=logits.device)
    if isinstance(gradient_ratio, Tensor) and gradient_ratio.dim() == 1:  # read without a copy
        return gradient_ratio
    return torch.tensor(check_per_class("gradient_ratio", gradient_ratio, low=0))


class GradientRatio(nn.Module):
    """
    Running sums of the gradient norms of each class's logit.

    The sums are float64, because they grow all through training.
    """

    def __init__(self, num_classes: int, *, initial: float) -> None:
        """
        Initialize the sums.

        Args:
            num_classes: K.
            initial: the ratio of a class without negative gradient so far.

        Raises:
            IllegalOptionError: num_classes is not an integer >= 1.
        """
        super().__init__()
        num_classes = check_count("num_classes", num_classes, low=1)
        self.initial = initial
        self.positive: Tensor
        self.negative: Tensor
        self.register_buffer("positive", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("negative", torch.zeros(num_classes, dtype=torch.float64))

    @torch.no_grad()
    def add(self, positive: Tensor, negative: Tensor) -> None:
        """
        Add the sums over the anchors of a step, (K,) each, averaged over processes.

        All processes must call it equally often.
        """
        step = mean_over_processes(torch.stack([positive, negative]).double())
        self.positive += step[0]
        self.negative += step[1]

    def ratio(self) -> Tensor:
        """
        Return the ratio of positive to negative gradient, float32 (K,).
        """
        ratio = self.positive / self.negative.clamp(min=1e-10)
        return torch.where(self.negative > 0, ratio, torch.full_like(ratio, self.initial)).float()


class GradientRatioLoss(ElementwiseLoss):
    """
    Base class of the losses that depend on :class:`GradientRatio`.

    A training step collects the gradients of each class in the pass that computes its loss. They
    are undivided, and thus independent of hooks, levels and gradient accumulation. The ratio of a
    step applies from the next step on.
    """

    decomposes = False
    stateful = True
    if TYPE_CHECKING:  # TorchScript cannot read the annotation
        gradients: GradientRatio

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.update_levels([logits], [labels])

    def update_levels(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
        slopes = _zeros(logits[0])
        with torch.no_grad():
            terms = self.terms_of_levels(logits, labels)
            sum_of_terms(logits, labels, terms, slopes=slopes, impl=self.impl)
        self.gradients.add(*slopes)

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def of_levels(
        self,
        logits: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        quality: Sequence[Tensor] | None = None,
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        if not self.training:
            return super().of_levels(logits, labels, scale=scale)
        slopes = _zeros(logits[0])
        terms = self.terms_of_levels(logits, labels)
        loss = sum_of_terms(logits, labels, terms, scale=scale, slopes=slopes, impl=self.impl)
        self.gradients.add(*slopes)
        return loss


def _zeros(logits: Tensor) -> Tensor:
    """Return sums of each class, float64 (2, K)."""
    return torch.zeros(2, logits.shape[-1], dtype=torch.float64, device=logits.device)
