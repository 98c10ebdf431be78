"""
Selection of anchors by their loss, shared by the miners.

An anchor of higher loss comes first. Of equal losses, the lower index comes first. A NaN counts as
the highest loss: mining must not hide a loss that is not finite from the trainer.

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
    Select the ``count`` candidates of highest loss.

    Args:
        loss: (R,), any floating dtype; compared in float32.
        candidates: bool (R,). The losses of all other anchors may be anything.
        count: >= 0.

    Returns:
        bool (R,); all candidates if there are fewer.
    """
    count = min(count, len(loss))
    if count == 0:
        return torch.zeros_like(candidates)
    scores = _ordered(loss).masked_fill(~candidates, -torch.inf)
    # A stable sort of 200,000 anchors gives the same result for many times the work of a topk.
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
    Apply non-maximum suppression with the loss as score.

    Args:
        loss: (R,), any floating dtype.
        labels: integer (R,), -1 for ignored anchors, which neither survive nor suppress.
        boxes: function from indices (V,) to the boxes (V, 4), XYXY; compared in float32. It is
            called once, with the anchors that enter.
        nms_thresh: IoU above which the anchor of lower loss is suppressed.
        pre_nms_topk: number of anchors of highest loss that enter; no other survives.
        nms_per_label: if True, only an anchor of the same label suppresses; background is one
            label.

    Returns:
        bool (R,), the survivors.
    """
    entering = highest(loss, labels != -1, pre_nms_topk).nonzero().squeeze(1)
    by_loss = _ordered(loss[entering]).argsort(descending=True, stable=True)
    order = entering[by_loss]
    boxes_in_order = boxes(order).float()
    groups = [torch.arange(len(order), device=loss.device)]
    if nms_per_label:
        # Not batched_nms: it shifts the boxes of each label by the largest coordinate. That
        # separates them only if no coordinate is negative, and anchors often have negative ones.
        labels = labels[order]
        groups = [(labels == label).nonzero().squeeze(1) for label in labels.unique()]

    survivors = torch.zeros(len(loss), dtype=torch.bool, device=loss.device)
    for group in groups:
        # Ranks replace losses, because the order of equal scores in nms depends on its version.
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
    num_pos = int(positives.sum())
    quota = int(neg_pos_ratio * num_pos) if num_pos else empty_image_negatives
    return positives | highest(loss, negatives, min(quota, num_keep - num_pos))


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


def _ordered(loss: Tensor) -> Tensor:
    """Return float32 with NaN on top; -inf stays free for anchors that are not candidates."""
    lowest = torch.finfo(torch.float32).min
    return loss.float().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=lowest)
