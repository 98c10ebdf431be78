"""SimOTA: a number of anchors for each object that depends on the predicted boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_count, check_option
from ..ops.box_pairs import box_iou, object_chunks, smallest
from .pairs import centers_of, check_predictions, depth_inside, real

EPS = 1e-7
"""Term of the logarithm, which keeps the cost finite without an overlap."""
FAR_COST = 1e5
"""Cost of an anchor outside of an object or far from its center."""


@torch.no_grad()
def simota_assign(
    logits: Tensor,
    boxes: Tensor,
    centers: Tensor,
    strides: Tensor,
    gt_boxes: Tensor,
    gt_classes: Tensor,
    *,
    center_radius: float = 2.5,
    candidate_topk: int = 10,
    iou_weight: float = 3.0,
) -> Tensor:
    """
    Assign anchors by SimOTA, with mmdetection's rule.

        candidates  = anchors with their center in an object, or near the center of one
        cost(i, g)  = sum over k of BCE(sqrt(p_ik), 1 if k is the class of g, else 0)
                      + iou_weight * -log(IoU(box i, g) + 1e-7)
                      + 1e5, unless the center of anchor i is in g and near the center of g
        number of g = max(1, floor(sum of the candidate_topk largest IoU of g with candidates))
        positive    = the candidates of lowest cost of g, as many as its number

    "Near" means within center_radius strides in x and in y. An anchor that is positive for several
    objects gets the one of the lowest cost among all objects, the first in a tie. Of equal costs,
    the lower index comes first.

    (arXiv:2107.08430 section 2, a simplification of arXiv:2103.14259. YOLOX itself differs: radius
    1.5, candidates near a center only, 1e6.)

    Args:
        logits: (R, K), any floating dtype; computed in float32, or float64.
        boxes: (R, 4), decoded, XYXY.
        centers: (R, 2), centers of the anchors, (x, y).
        strides: (R,), strides of their levels in pixels.
        gt_boxes: (M, 4), XYXY; M may be 0.
        gt_classes: (M,), int64, in 0..K-1.
        center_radius: > 0, in strides.
        candidate_topk: >= 1.
        iou_weight: >= 0.

    Returns:
        int64 (R,), the index of the object; -1 for background. No anchor is ignored. An object has
        no anchor if others take all of its own, or if there is no candidate.

    Raises:
        ValueError: an option or a class is outside its legal range, or a shape does not match.
    """
    radius = check_option("center_radius", center_radius, low=0, open_low=True)
    topk = check_count("candidate_topk", candidate_topk, low=1)
    iou_weight = check_option("iou_weight", iou_weight, low=0)
    check_predictions(logits, boxes, gt_boxes, gt_classes)
    if centers.shape != (len(logits), 2) or strides.shape != (len(logits),):
        raise ValueError(
            f"centers and strides must be ({len(logits)}, 2) and ({len(logits)},), got "
            f"{tuple(centers.shape)} and {tuple(strides.shape)}"
        )
    logits, boxes, centers, strides, gt_boxes = real(logits, boxes, centers, strides, gt_boxes)

    reach = radius * strides
    is_candidate = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    for chunk in object_chunks(len(gt_boxes), len(logits)):
        for rule in _in_object_and_near(centers, reach, gt_boxes[chunk]):
            is_candidate |= rule.any(dim=0)
    candidates = is_candidate.nonzero().squeeze(1)  # (n,)
    centers, reach, boxes = centers[candidates], reach[candidates], boxes[candidates]
    background, of_class = _classification_costs(logits[candidates])

    num_choices = torch.zeros_like(candidates)
    chooser = torch.full_like(candidates, -1)
    cheapest = torch.zeros_like(candidates)
    lowest = background.new_full(background.shape, torch.inf, dtype=torch.float64)
    for chunk in object_chunks(len(gt_boxes) if len(candidates) else 0, len(candidates)):
        iou = box_iou(gt_boxes[chunk].unsqueeze(1), boxes)  # (m, n)
        cost = background + of_class.T[gt_classes[chunk]] - iou_weight * (iou + EPS).log()
        in_object, is_near = _in_object_and_near(centers, reach, gt_boxes[chunk])
        cost = cost.double() + FAR_COST * ~(in_object & is_near)

        largest = iou.topk(min(topk, len(candidates)), dim=1).values
        number = largest.double().sum(dim=1).long().clamp(min=1)
        chosen = smallest(cost, topk)
        rank = torch.arange(chosen.shape[1], device=chosen.device)
        at, place = (rank < number.unsqueeze(1)).nonzero(as_tuple=True)
        chosen = chosen[at, place]
        num_choices.index_add_(0, chosen, torch.ones_like(chosen))
        chooser[chosen] = at + chunk.start

        low, at = cost.min(dim=0)  # the first object in a tie
        cheapest = torch.where(low < lowest, at + chunk.start, cheapest)
        lowest = lowest.minimum(low)
    owner = torch.full_like(is_candidate, -1, dtype=torch.int64)
    owner[candidates] = torch.where(num_choices > 1, cheapest, chooser)
    return owner


def _in_object_and_near(points: Tensor, reach: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """
    Find the points in each object, and those near its center.

    Args:
        points: (n, 2).
        reach: (n,), largest distance of a point that is near, in x and in y.
        objects: (m, 4).

    Returns:
        bool (m, n) each.
    """
    objects = objects.unsqueeze(1)
    x, y = (points - centers_of(objects)).abs().unbind(dim=2)
    return depth_inside(points, objects) > 0, torch.maximum(x, y) < reach


def _classification_costs(logits: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return the cost of background for each anchor, and what each class adds to it.

    With q = sqrt(p), the sum over classes of the cross entropy is
    -sum_k log(1 - q_k) + log(1 - q_c) - log(q_c) for class c.

    Args:
        logits: (n, K).

    Returns:
        (n,) and (n, K).
    """
    log_q = F.logsigmoid(logits) / 2
    log_of_rest = F.logsigmoid(-logits) - log_q.exp().log1p()  # 1 - q = (1 - p) / (1 + q)
    return -log_of_rest.sum(dim=1), log_of_rest - log_q
