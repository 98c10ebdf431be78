"""
Picking anchors by their loss: what the miners are made of.

An anchor of higher loss goes first, and of equal losses the one of lower index. A NaN counts as the
highest loss there is: mining must not hide from the trainer that a loss is not finite.

Shape shorthand:
    R: number of anchors
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import nms


def highest(loss: Tensor, candidates: Tensor, count: int) -> Tensor:
    """
    The ``count`` candidates of highest loss.

    Args:
        loss: (R,), any floating dtype; compared in float32.
        candidates: bool (R,). The losses of all others may be anything.
        count: >= 0.

    Returns:
        bool (R,); all candidates where they are fewer.
    """
    count = min(count, len(loss))
    if count == 0:
        return torch.zeros_like(candidates)
    scores = _ordered(loss).masked_fill(~candidates, -torch.inf)
    # A stable sort of 200,000 anchors would give the same for many times the work of a topk.
    lowest = scores.topk(count).values[-1]
    above, tied = scores > lowest, scores == lowest
    room = count - above.sum()
    return candidates & (above | (tied & (tied.cumsum(0) <= room)))


def survivors_of_nms(
    loss: Tensor,
    labels: Tensor,
    boxes: Callable[[Tensor], Tensor],
    *,
    nms_thresh: float,
    pre_nms_topk: int,
    nms_per_label: bool,
) -> Tensor:
    """
    The anchors left by non-maximum suppression whose score is the loss.

    Args:
        loss: (R,), any floating dtype.
        labels: integer (R,), -1 for ignored anchors, which neither survive nor suppress.
        boxes: gives those of some anchors, indices (V,) -> (V, 4), XYXY; compared in float32. It
            is asked once, for those that enter.
        nms_thresh: IoU above which the anchor of lower loss goes.
        pre_nms_topk: only so many anchors of highest loss enter; no other survives.
        nms_per_label: only an anchor of the same label suppresses; background is one label.

    Returns:
        bool (R,).
    """
    entering = highest(loss, labels != -1, pre_nms_topk).nonzero().squeeze(1)
    by_loss = _ordered(loss[entering]).argsort(descending=True, stable=True)
    order = entering[by_loss]
    boxes_in_order = boxes(order).float()
    groups = [torch.arange(len(order), device=loss.device)]
    if nms_per_label:
        # Not batched_nms: it shifts the boxes of each label by the largest coordinate, which keeps
        # them apart only while no coordinate is negative, and those of anchors often are.
        labels = labels[order]
        groups = [(labels == label).nonzero().squeeze(1) for label in labels.unique()]

    survivors = torch.zeros(len(loss), dtype=torch.bool, device=loss.device)
    for group in groups:
        # Ranks in place of losses: how nms orders equal scores is not the same in all versions.
        rank = torch.arange(len(group), 0, -1, dtype=torch.float32, device=loss.device)
        kept = nms(boxes_in_order[group], rank, nms_thresh)
        survivors[order[group[kept]]] = True
    return survivors


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
    Add to the positives their negatives of highest loss.

    Args:
        loss: (R,), any floating dtype.
        positives: bool (R,), all of which are kept.
        negatives: bool (R,), those to choose from.
        neg_pos_ratio: negatives for one positive; rounded down over all positives.
        empty_image_negatives: negatives where there is no positive.
        num_keep: no negative is added beyond so many anchors in all.

    Returns:
        bool (R,).
    """
    num_pos = int(positives.sum())
    quota = int(neg_pos_ratio * num_pos) if num_pos else empty_image_negatives
    return positives | highest(loss, negatives, min(quota, num_keep - num_pos))


def positive_mask(labels: Tensor, *, num_classes: int | None) -> Tensor:
    """
    Args:
        labels: integer, any shape, in {-1 (ignored), 0..K-1, K (background)}.
        num_classes: K. None: the largest label present is taken for the background.

    Returns:
        bool, the same shape.
    """
    background: int | Tensor | None = num_classes
    if background is None:
        background = labels.max() if labels.numel() else 0
    return (labels >= 0) & (labels < background)


def _ordered(loss: Tensor) -> Tensor:
    """float32 with NaN on top, and with -inf left free for what is no candidate."""
    lowest = torch.finfo(torch.float32).min
    return loss.float().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=lowest)
