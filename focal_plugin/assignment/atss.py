"""Adaptive training sample selection: a threshold of the IoU for each object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import check_count
from ..ops.box_pairs import box_iou, object_chunks, smallest
from .pairs import MARGIN, BestObject, centers_of, check_boxes, depth_inside, real


@torch.no_grad()
def atss_assign(
    anchors: Sequence[Tensor],
    gt_boxes: Tensor,
    *,
    k: int = 9,
    anchors_per_location: int | None = 1,
) -> Tensor:
    """
    Assign anchors by adaptive training sample selection (ATSS), with a threshold per object.

        candidates of g = on each level, the k * A anchors whose centers are nearest to that of g
        T_g             = mean + standard deviation of the candidates' IoU with g
        positive        = a candidate with IoU >= T_g whose center is inside of g

    The standard deviation is that of a sample (divisor n - 1), and 0 for one candidate. A center is
    inside by more than 0.01 pixels on all sides. An anchor that is positive for several objects
    gets the one of the largest IoU, the first in a tie. Of equal distances, the lower index is
    nearer.

    (arXiv:1912.02424 alg. 1. The authors' code takes k * A candidates, mmdetection's takes k.)

    Args:
        anchors: one tensor for each level, (Ri, 4), XYXY.
        gt_boxes: (M, 4), XYXY; M may be 0.
        k: candidates for each level and anchor per location, >= 1.
        anchors_per_location: A, >= 1. None takes k candidates whatever the number of anchors.

    Returns:
        int64 (R,), the index of the object; -1 for background. No anchor is ignored, and an object
        may have no anchor.

    Raises:
        ValueError: an option is outside its legal range, or a shape does not match.
    """
    count = check_count("k", k, low=1)
    if anchors_per_location is not None:
        count *= check_count("anchors_per_location", anchors_per_location, low=1)
    for boxes in anchors:
        check_boxes("anchors", boxes)
    check_boxes("gt_boxes", gt_boxes)
    gt_boxes, *levels = real(gt_boxes, *anchors)
    all_anchors = torch.cat([gt_boxes[:0], *levels])
    owner = BestObject(len(all_anchors), all_anchors)
    if not len(all_anchors):
        return owner.index
    for chunk in object_chunks(len(gt_boxes), max(map(len, levels))):
        boxes = gt_boxes[chunk]
        candidates = _nearest(levels, centers_of(boxes), count)  # (m, C)
        near = all_anchors[candidates]
        iou = box_iou(boxes.unsqueeze(1), near)
        threshold = iou.mean(dim=1) + iou.std(dim=1, correction=min(1, iou.shape[1] - 1))
        inside = depth_inside(centers_of(near), boxes.unsqueeze(1)) > MARGIN
        at, place = (inside & (iou >= threshold.unsqueeze(1))).nonzero(as_tuple=True)
        owner.add(at + chunk.start, candidates[at, place], iou[at, place])
    return owner.index


def _nearest(levels: list[Tensor], points: Tensor, count: int) -> Tensor:
    """Return the indices of the ``count`` nearest anchors of each level, (m, C), to (m, 2)."""
    nearest, first = [], 0
    for level in levels:
        x, y = centers_of(level).unbind(dim=1)
        squared = (points[:, :1] - x).square() + (points[:, 1:] - y).square()  # (m, Ri)
        nearest.append(smallest(squared.sqrt(), count) + first)
        first += len(level)
    return torch.cat(nearest, dim=1)
