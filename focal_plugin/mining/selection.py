"""
Selection of anchors by their loss, shared by the miners.

An anchor of higher loss comes first. Of equal losses, the lower index comes first. A NaN counts as
the highest loss: mining must not hide a loss that is not finite from the trainer.

Shape shorthand:
    R: number of anchors
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.descending import descending


def highest(loss: Tensor, candidates: Tensor, count: int) -> Tensor:
    """
    Select the ``count`` candidates of highest loss.

    Args:
        loss: (R,), any floating dtype; compared in float32.
        candidates: bool (R,). The losses of all other anchors may be anything.
        count: >= 0.

    Returns:
        bool (R,); all candidates if there are fewer.
    """
    place = candidates.nonzero().squeeze(1)
    if len(place) <= count:
        return candidates.clone()
    order = descending(scores_by_loss(loss[place]).unsqueeze(0), count)[0]
    keep = torch.zeros_like(candidates)
    keep[place[order]] = True
    return keep


def scores_by_loss(loss: Tensor) -> Tensor:
    """
    Return scores in the order of the losses: a NaN is infinite, and no score is -inf.

    Args:
        loss: any shape and floating dtype.

    Returns:
        float32, the same shape.
    """
    lowest = torch.finfo(torch.float32).min
    return loss.float().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=lowest)


def with_hard_negatives(
    loss: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    neg_pos_ratio: float,
    empty_image_negatives: int,
    num_keep: int,
) -> Tensor:
    """
    Add the negatives of highest loss to the positives.

    Args:
        loss: (R,), any floating dtype.
        positives: bool (R,), all of which are kept.
        negatives: bool (R,), the negatives to choose from.
        neg_pos_ratio: negatives per positive; rounded down over all positives.
        empty_image_negatives: number of negatives if there is no positive.
        num_keep: maximum number of anchors in total, which limits the negatives.

    Returns:
        bool (R,).
    """
    quota = quota_of_negatives(
        int(positives.sum()),
        neg_pos_ratio=neg_pos_ratio,
        empty_image_negatives=empty_image_negatives,
        num_keep=num_keep,
    )
    return positives | highest(loss, negatives, quota)


def quota_of_negatives(
    num_pos: int, *, neg_pos_ratio: float, empty_image_negatives: int, num_keep: int
) -> int:
    """
    Return the number of negatives that :func:`with_hard_negatives` adds to some positives.

    Args:
        num_pos: number of positives, in 0..num_keep.
        neg_pos_ratio, empty_image_negatives, num_keep: see :func:`with_hard_negatives`.
    """
    quota = int(neg_pos_ratio * num_pos) if num_pos else empty_image_negatives
    return min(quota, num_keep - num_pos)


def positive_mask(labels: Tensor, *, num_classes: int | None) -> Tensor:
    """
    Return the mask of the positives.

    Args:
        labels: integer, any shape, in {-1 (ignored), 0..K-1, K (background)}.
        num_classes: K. None means that the largest label present is the background.

    Returns:
        bool, the same shape.
    """
    background: int | Tensor | None = num_classes
    if background is None:
        background = labels.max() if labels.numel() else 0
    return (labels >= 0) & (labels < background)
