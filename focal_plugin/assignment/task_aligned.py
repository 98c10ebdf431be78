"""Task alignment learning: anchors whose score and box agree with the object."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_count, check_option
from ..ops.box_pairs import box_iou, object_chunks, smallest
from .pairs import (
    MARGIN,
    BestObject,
    centers_of,
    check_boxes,
    check_predictions,
    depth_inside,
    real,
)

EPS = 1e-7
"""Term of the denominator of the target. It makes the targets of a fresh detector small."""


@torch.no_grad()
def tal_assign(
    logits: Tensor,
    boxes: Tensor,
    anchors: Tensor,
    gt_boxes: Tensor,
    gt_classes: Tensor,
    *,
    topk: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> tuple[Tensor, Tensor]:
    """
    Assign anchors by task alignment learning (TAL), with a soft target.

        m(i, g)  = p_i(class of g)^alpha * IoU(box i, g)^beta
        positive = one of the topk largest m of g, m > 0, and the center of anchor i inside of g
        target   = m / (max m of g + 1e-7) * max IoU of g

    Both maxima are over the anchors that g has in the end. A center is inside by more than 0.01
    pixels on all sides. An anchor that is positive for several objects gets the one of the largest
    IoU, the first in a tie. Of equal m, the lower index comes first.

    (arXiv:2108.07755 section 3.2; the target is that of the authors' code.)

    Args:
        logits: (R, K), any floating dtype; computed in float32, or float64.
        boxes: (R, 4), decoded, XYXY.
        anchors: (R, 4), XYXY.
        gt_boxes: (M, 4), XYXY; M may be 0.
        gt_classes: (M,), int64, in 0..K-1.
        topk: candidates of an object on all levels together, >= 1.
        alpha, beta: exponents, >= 0.

    Returns:
        the index of each anchor's object, int64 (R,), -1 for background; and its target in [0, 1],
        (R,), 0 for background. No anchor is ignored, and an object may have no anchor.

    Raises:
        ValueError: an option or a class is outside its legal range, or a shape does not match.
    """
    topk = check_count("topk", topk, low=1)
    alpha = check_option("alpha", alpha, low=0)
    beta = check_option("beta", beta, low=0)
    check_predictions(logits, boxes, gt_boxes, gt_classes)
    check_boxes("anchors", anchors, rows=len(logits))
    logits, boxes, anchors, gt_boxes = real(logits, boxes, anchors, gt_boxes)
    points = centers_of(anchors)
    owner = BestObject(len(logits), logits)

    def alignment(iou: Tensor, of_class: Tensor) -> Tensor:
        return of_class.sigmoid() ** alpha * iou**beta

    for chunk in object_chunks(len(gt_boxes), len(logits)):
        iou = box_iou(gt_boxes[chunk].unsqueeze(1), boxes)  # (m, R)
        metric = alignment(iou, logits.T[gt_classes[chunk]])
        candidates = smallest(-metric, topk)
        at = torch.arange(len(iou), device=iou.device).unsqueeze(1).expand_as(candidates)
        inside = depth_inside(points[candidates], gt_boxes[chunk].unsqueeze(1)) > MARGIN
        positive = inside & (metric.gather(1, candidates) > 0)
        at, candidates = at[positive], candidates[positive]
        owner.add(at + chunk.start, candidates, iou[at, candidates])

    target = logits.new_zeros(len(logits))
    index = (owner.index >= 0).nonzero().squeeze(1)
    object_of = owner.index[index]
    iou = box_iou(gt_boxes[object_of], boxes[index])
    metric = alignment(iou, logits[index, gt_classes[object_of]])
    largest = [
        x.new_zeros(len(gt_boxes)).scatter_reduce(0, object_of, x, "amax")[object_of]
        for x in (metric, iou)
    ]
    target[index] = metric / (largest[0] + EPS) * largest[1]
    return owner.index, target
