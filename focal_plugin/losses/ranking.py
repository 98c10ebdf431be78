"""Base classes of the losses that compare all logits of a batch with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check_choice, check_option
from ..ops.levels import Levels
from ..registry import configurable
from .base import ClassificationLoss
from .one_vs_rest import check_inputs, check_quality

SCOPES = ("batch", "image")
"""Legal values of `MODEL.FOCAL.CLS_LOSS.RANKING_SCOPE`."""


class RankingLoss(ClassificationLoss):
    """
    Base class of the losses of a batch's order, which have no value for each anchor.

    A subclass implements :meth:`of_levels`, which streams the levels in any layout.
    """

    own_normalizer = True
    decomposes = False
    has_rows = False
    any_layout = True

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None) -> Tensor:
        return self.of_levels([logits], [labels], quality=None if quality is None else [quality])


class RampLoss(RankingLoss):
    """Base class of the losses that compare logits by a ramp, see :mod:`focal_plugin.ops.ramps`."""

    impl = "auto"
    """Implementation, see :class:`focal_plugin.ops.ranking.Ranking`."""

    @configurable
    def __init__(self, *, delta: float, scope: str = "batch") -> None:
        """
        Initialize the loss.

        Args:
            delta: half width of the ramp, >= 0; 0 is a step.
            scope: "batch": all logits of the process are one ranking, as published. "image": the
                logits of each image are one, and the loss is the mean over images with an object.
                The first dimension of the logits is then that of the images.
        """
        super().__init__()
        self.delta = check_delta(delta)
        self.scope = check_choice("scope", scope, SCOPES)

    def of_ranking(
        self, logits: Sequence[Tensor], labels: Sequence[Tensor], quality: Sequence[Tensor] | None
    ) -> Tensor:
        """Compute the loss of one ranking, a scalar; the arguments are those of `of_levels`."""
        raise NotImplementedError

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def of_levels(
        self,
        logits: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        quality: Sequence[Tensor] | None = None,
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        losses = [self.of_ranking(*x) for x in self.rankings(logits, labels, quality)]
        return torch.stack(losses).mean() * scale

    def rankings(
        self, logits: Sequence[Tensor], labels: Sequence[Tensor], *others: Sequence[Tensor] | None
    ) -> list[list[Any]]:
        """
        Split the arguments of :meth:`of_levels`, tensors of each level, into those of each ranking.

        Returns:
            the arguments of at least one ranking, in the same order; None stays None.

        Raises:
            ValueError: the scope is "image", and the logits have no dimension of images.
        """
        batch: list[Any] = [logits, labels, *others]
        if self.scope == "batch":
            return [batch]
        if any(x.dim() < 3 for x in logits):
            raise ValueError(
                f"scope 'image' requires logits (N, ..., K), got {tuple(logits[0].shape)}"
            )
        unbound = [x and [level.unbind() for level in x] for x in batch]
        images = [
            [x and [level[image] for level in x] for x in unbound]
            for image in range(len(labels[0]))
        ]
        return [x for x in images if _has_object(*x[:2])] or [batch]


def _has_object(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> bool:
    levels = zip(logits, labels, strict=True)
    return any(bool(((y >= 0) & (y < x.shape[-1])).any()) for x, y in levels)


def levels_of(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Levels:
    """
    Read the levels of a batch.

    Raises:
        ValueError: the shapes do not match, or a label is outside -1..K, see `check_inputs`.
    """
    for x, y in zip(logits, labels, strict=True):
        check_inputs(x, y, num_classes=x.shape[-1] if x.dim() else 0)
    return Levels(logits, labels)


def qualities_of(
    levels: Levels,
    logits: Sequence[Tensor],
    labels: Sequence[Tensor],
    quality: Sequence[Tensor] | None,
) -> Tensor:
    """
    Return the quality of each positive of the levels, (P,), without a gradient.

    Raises:
        ValueError: a quality is absent, outside [0, 1], or of another shape, see `check_quality`.
    """
    qualities: Sequence[Tensor | None] = quality or [None] * len(labels)
    checked = [
        check_quality(z, y, num_classes=x.shape[-1])
        for x, y, z in zip(logits, labels, qualities, strict=True)
    ]
    return levels.of_positives(checked)


def check_delta(delta: float) -> float:
    """
    Return ``delta`` if it is a half width of a ramp, >= 0.

    Raises:
        IllegalOptionError: it is not.
    """
    return check_option("delta", delta, low=0)
