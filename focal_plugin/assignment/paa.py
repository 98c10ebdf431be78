"""Probabilistic anchor assignment: a mixture model separates good candidates from bad ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..checks import check_count, check_option
from ..ops import match_anchors
from .mixture import fit_two_normals
from .pairs import check_boxes

LossOf = Callable[[Tensor, Tensor], Tensor]
"""Function from anchors and objects, int64 (V,) each, to the loss of these pairs, (V,)."""


@torch.no_grad()
def paa_assign(
    anchors: Sequence[Tensor],
    gt_boxes: Tensor,
    loss: LossOf,
    *,
    topk: int = 9,
    iou_threshold: float = 0.1,
) -> Tensor:
    """
    Assign anchors by probabilistic anchor assignment (PAA).

        owner of i      = the object of the largest IoU, if it is at least iou_threshold or the
                          largest one of that object
        candidates of g = of its anchors, the topk of lowest loss on each level
        mixture of g    = two normal distributions, fitted to the losses of its candidates
        positive        = a candidate of the better component, up to the loss where the likelihood
                          of the mixture is largest

    All other anchors are background. Of equal losses, the lower index comes first. A single
    candidate is positive, as in the authors' code; in mmdetection it is background. So are all
    candidates if the better component has none.

    (arXiv:2007.08103 section 3, with the separation of figure 3 (c).)

    Args:
        anchors: one tensor for each level, (Ri, 4), XYXY; compared in float32.
        gt_boxes: (M, 4), XYXY; M may be 0.
        loss: the loss of an anchor as a positive of an object. In the paper, it is the focal loss
            of all classes plus the GIoU loss. It is called once, with all owned anchors.
        topk: >= 1.
        iou_threshold: in (0, 1].

    Returns:
        int64 (R,), the index of the object; -1 for background. No anchor is ignored. An object has
        no anchor if it owns none.

    Raises:
        ValueError: an option is outside its legal range, or a shape does not match.
    """
    topk = check_count("topk", topk, low=1)
    check_option("iou_threshold", iou_threshold, low=0, high=1, open_low=True)
    for boxes in anchors:
        check_boxes("anchors", boxes)
    check_boxes("gt_boxes", gt_boxes)
    all_anchors = torch.cat([gt_boxes[:0], *anchors]).float()
    (owner,), (label,) = match_anchors(
        [gt_boxes.float()], all_anchors, thresholds=[iou_threshold], labels=[0, 1]
    )
    result = torch.full_like(owner, -1)
    owned = (label == 1).nonzero().squeeze(1)  # (V,)
    if not len(owned):
        return result
    level = torch.bucketize(owned, _ends(anchors, owned.device), right=True)
    objects, losses = owner[owned], loss(owned, owner[owned]).double()
    _, chosen, rank = _ranked(losses, objects * len(anchors) + level)
    chosen = chosen[rank < topk].sort().values
    row, order, rank = _ranked(losses[chosen], objects[chosen])
    chosen = chosen[order]

    values = losses.new_zeros(int(row[-1]) + 1, int(rank.max()) + 1)  # one row for each object
    values[row, rank] = losses[chosen]
    valid = torch.zeros_like(values, dtype=torch.bool)
    valid[row, rank] = True
    positive = _best_part(values, valid)[row, rank]
    chosen = chosen[positive]
    result[owned[chosen]] = objects[chosen]
    return result


def _best_part(values: Tensor, valid: Tensor) -> Tensor:
    """
    Separate the better candidates from the others.

    Args:
        values: float64 (M, C), losses of the candidates of each object in ascending order.
        valid: bool (M, C).

    Returns:
        bool (M, C).
    """
    joint = fit_two_normals(values, valid).log_likelihood(values)
    is_better = valid & (joint[..., 0] >= joint[..., 1])
    likelihood = joint.logsumexp(dim=2).masked_fill(~is_better, -torch.inf)
    last = likelihood.argmax(dim=1, keepdim=True)
    rank = torch.arange(values.shape[1], device=values.device)
    nothing = ~is_better.any(dim=1, keepdim=True)
    return torch.where(nothing, valid, is_better & (rank <= last))


def _ranked(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    Sort by group, then by value, then by index.

    Args:
        values, groups: (V,).

    Returns:
        in the order of the sort, int64 (V,) each: the number of the group among those present, the
        index, and the rank in the group.
    """
    order = values.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]
    _, number, size = groups[order].unique_consecutive(return_inverse=True, return_counts=True)
    first = (size.cumsum(dim=0) - size)[number]
    return number, order, torch.arange(len(order), device=order.device) - first


def _ends(levels: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the index after the last anchor of each level, (L,)."""
    return torch.tensor([len(level) for level in levels], device=device).cumsum(dim=0)
