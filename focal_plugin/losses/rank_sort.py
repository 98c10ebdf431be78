"""Rank & Sort loss: positives above negatives, and among themselves in the order of their IoU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.ranking import Ranking
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .ranking import RampLoss, check_delta, levels_of, qualities_of

LEAST_QUALITY = 1e-6
"""Quality of a positive below it; the authors' code takes a positive of IoU 0 for a negative."""

LEAST_SUM = 1e-10
"""Sum of ramps, or below it no error is distributed."""


def rank_sort_loss(
    logits: Tensor, labels: Tensor, quality: Tensor, *, delta: float = 0.5
) -> Tensor:
    """
    Compute the Rank & Sort loss (RS) of all logits that are not ignored.

        RS = 1/P * sum_i (FP_i / rank_i + current_i - target_i)
        current_i = mean of 1 - t_j over all j at or above i
        target_i = the same over those j at or above i with t_j >= t_i
        rank_i = positives at or above i + FP_i, FP_i = negatives above i

    i and j are the P positives, and t_j is their quality. All counts and means are weighted by a
    ramp: a logit counts fully from delta above i on, and not at all from delta below i on. The
    gradient is the published update, not the derivative: i passes its error on to the negatives and
    to the positives of lower quality above it. It sums to 0.

    (arXiv:2107.11669.)

    Args:
        logits: (..., K), any floating dtype; computed in float64.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        quality: (...), IoU in [0, 1] of each decoded box with its ground truth. It is a constant,
            and is read only where the label is a class. A quality below 1e-6 counts as 1e-6.
        delta: half width of the ramp, >= 0; 0 is a step.

    Returns:
        scalar, not to be divided by the number of positives; float64 for float64 logits, else
        float32. A differentiable 0 if there is no positive.

    Raises:
        ValueError: an option, a label or a quality is outside its legal range, or the shapes do not
            match.
    """
    return _loss([logits], [labels], [quality], check_delta(delta))


@CLS_LOSS_REGISTRY.register()
class RankSortLoss(RampLoss):
    """
    Module of :func:`rank_sort_loss`, with the same options and the scope of a ranking.

    Reported:
        Faster R-CNN R-50-FPN, COCO, all RoIs and GIoU: 37.6 -> 39.6 AP over cross entropy;
        ATSS R-50-FPN: 39.4 -> 39.9 AP over focal loss
    """

    needs_quality = True
    config_keys = {
        "delta": "MODEL.FOCAL.CLS_LOSS.RS_DELTA",
        "scope": "MODEL.FOCAL.CLS_LOSS.RANKING_SCOPE",
    }

    @configurable
    def __init__(self, *, delta: float = 0.5, scope: str = "batch") -> None:
        super().__init__(delta=delta, scope=scope)

    def of_ranking(
        self, logits: Sequence[Tensor], labels: Sequence[Tensor], quality: Sequence[Tensor] | None
    ) -> Tensor:
        return _loss(logits, labels, quality, self.delta, self.impl)


def _loss(
    logits: Sequence[Tensor],
    labels: Sequence[Tensor],
    quality: Sequence[Tensor] | None,
    delta: float,
    impl: str = "auto",
) -> Tensor:
    ranking = Ranking(levels_of(logits, labels), delta=delta, impl=impl)
    qualities = qualities_of(ranking.levels, logits, labels, quality)
    false_positives = ranking.false_positives
    rank = ranking.sum_of_higher() + false_positives
    sorting, received = _sorting(ranking, qualities.double().clamp(min=LEAST_QUALITY))
    error = false_positives / rank + sorting
    return ranking.loss(
        error,
        weights=torch.where(false_positives > LEAST_SUM, 1 / rank, 0.0),
        gradient=received - error,
    )


def _sorting(ranking: Ranking, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sorting error of each positive, and what each one receives of the errors, (P,)."""
    errors, received = torch.zeros_like(quality), torch.zeros_like(quality)
    for rows, higher in ranking.pairs():
        better = higher * (quality >= quality[rows].unsqueeze(1))
        current, target = (x @ (1 - quality) / x.sum(1) for x in (higher, better))
        errors[rows] = current - target
        worse = higher - better
        mass = worse.sum(1)
        received += torch.where(mass > LEAST_SUM, errors[rows] / mass, 0.0) @ worse
    return errors, received
