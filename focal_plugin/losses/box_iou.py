"""
Losses of decoded boxes by their overlap, and the overlap itself.

Boxes are (x1, y1, x2, y2) in pixels. The overlap of every pair is defined: a box without area has
no overlap. Boxes with swapped corners are an error on a CPU, and have no overlap on a GPU.

Shape shorthand:
    V: number of pairs
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .box_inputs import xyxy_pair
from .build import BOX_LOSS_REGISTRY, BoxLoss

EPS = 1e-7
"""Lower bound of the areas, sides and squared diagonals in denominators, in pixels."""


def elementwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """
    Compute the intersection over union of each pair of boxes, differentiable.

        IoU = area(A and B) / area(A or B)

    Args:
        boxes1, boxes2: (V, 4), any floating dtype; computed in float32.

    Returns:
        float32 (V,), in [0, 1]; 0 where a box has no area.

    Raises:
        ValueError: the shapes do not match, or a box has swapped corners.
    """
    intersection, union = _intersection_and_union(*xyxy_pair(boxes1, boxes2))
    return intersection / union.clamp(min=EPS)


def iou_loss(pred_boxes: Tensor, target_boxes: Tensor) -> Tensor:
    """
    Compute the IoU loss, summed over all pairs of boxes.

        L = 1 - IoU

    (arXiv:1902.09630 alg. 2. Pairs that do not overlap have no gradient.)

    Args:
        pred_boxes: (V, 4), decoded; any floating dtype, computed in float32.
        target_boxes: (V, 4), the matched ground truth.

    Returns:
        float32 scalar; a differentiable 0 if there is no box.

    Raises:
        ValueError: the shapes do not match, or a box has swapped corners.
    """
    return iou_loss_of_boxes(*xyxy_pair(pred_boxes, target_boxes)).sum()


def giou_loss(pred_boxes: Tensor, target_boxes: Tensor) -> Tensor:
    """
    Compute the generalized IoU loss, summed over all pairs of boxes.

        L = 1 - IoU + (area(C) - area(A or B)) / area(C),   C the smallest box around both

    (arXiv:1902.09630 alg. 2.) The interface is that of :func:`iou_loss`. Boxes without overlap
    also have a gradient, toward the target.
    """
    return giou_loss_of_boxes(*xyxy_pair(pred_boxes, target_boxes)).sum()


def diou_loss(pred_boxes: Tensor, target_boxes: Tensor) -> Tensor:
    """
    Compute the distance IoU loss, summed over all pairs of boxes.

        L = 1 - IoU + distance(centers)^2 / diagonal(C)^2,   C the smallest box around both

    (arXiv:1911.08287 eq. 7.) The interface is that of :func:`iou_loss`. Boxes without overlap
    also have a gradient, which moves their centers together.
    """
    return diou_loss_of_boxes(*xyxy_pair(pred_boxes, target_boxes)).sum()


def ciou_loss(pred_boxes: Tensor, target_boxes: Tensor) -> Tensor:
    """
    Compute the complete IoU loss, summed over all pairs of boxes.

        L = DIoU loss + v^2 / (1 - IoU + v),   v = 4/pi^2 (atan(w/h) - atan(w'/h'))^2

    (arXiv:1911.08287 eq. 8 to 11; as in the paper, v / (1 - IoU + v) has no gradient.) The
    interface is that of :func:`iou_loss`. The loss adds the distance of the centers and the
    difference of the aspect ratios.
    """
    return ciou_loss_of_boxes(*xyxy_pair(pred_boxes, target_boxes)).sum()


class BoxOverlapLoss(BoxLoss):
    """Base class of the losses that compare decoded boxes."""

    on_boxes = True

    def forward_boxes(self, pred_boxes: Tensor, gt_boxes: Tensor) -> Tensor:
        """Compute the loss like :meth:`forward`, under a name that says what the arguments are."""
        return self(pred_boxes, gt_boxes)


@BOX_LOSS_REGISTRY.register()
class IoULoss(BoxOverlapLoss):
    """
    Module of :func:`iou_loss`.

    Reported:
        mmdetection, Faster R-CNN R-50-FPN, COCO: 37.4 -> 37.9 AP over L1
    """

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        return iou_loss_of_boxes(*xyxy_pair(pred, target))


@BOX_LOSS_REGISTRY.register()
class GIoULoss(BoxOverlapLoss):
    """
    Module of :func:`giou_loss`.

    Reported:
        mmdetection, Faster R-CNN R-50-FPN, COCO: 37.4 -> 37.6 AP over L1
    """

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        return giou_loss_of_boxes(*xyxy_pair(pred, target))


@BOX_LOSS_REGISTRY.register()
class DIoULoss(BoxOverlapLoss):
    """
    Module of :func:`diou_loss`.

    Reported:
        none on COCO in the authors' README
    """

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        return diou_loss_of_boxes(*xyxy_pair(pred, target))


@BOX_LOSS_REGISTRY.register()
class CIoULoss(BoxOverlapLoss):
    """
    Module of :func:`ciou_loss`.

    Reported:
        none on COCO in the authors' README
    """

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        return ciou_loss_of_boxes(*xyxy_pair(pred, target))


def iou_loss_of_boxes(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return 1 - IoU of each pair: (V, 4), (V, 4) -> (V,), in the dtype of the boxes."""
    intersection, union = _intersection_and_union(boxes1, boxes2)
    return 1 - intersection / union.clamp(min=EPS)


def giou_loss_of_boxes(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the GIoU loss of each pair, see :func:`iou_loss_of_boxes`."""
    intersection, union = _intersection_and_union(boxes1, boxes2)
    width, height = _enclosing_sides(boxes1, boxes2)
    hull = width * height
    return 1 - intersection / union.clamp(min=EPS) + (hull - union) / hull.clamp(min=EPS)


def diou_loss_of_boxes(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the DIoU loss of each pair, see :func:`iou_loss_of_boxes`."""
    width, height = _enclosing_sides(boxes1, boxes2)
    squared_diagonal = width**2 + height**2
    offset = (boxes1[:, :2] + boxes1[:, 2:] - boxes2[:, :2] - boxes2[:, 2:]) / 2
    squared_distance = (offset**2).sum(dim=1)
    return iou_loss_of_boxes(boxes1, boxes2) + squared_distance / squared_diagonal.clamp(min=EPS)


def ciou_loss_of_boxes(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the CIoU loss of each pair, see :func:`iou_loss_of_boxes`."""
    angle1, angle2 = _aspect_angle(boxes1), _aspect_angle(boxes2)
    v = 4 / math.pi**2 * (angle1 - angle2) ** 2
    with torch.no_grad():
        trade_off = v / (iou_loss_of_boxes(boxes1, boxes2) + v).clamp(min=EPS)
    return diou_loss_of_boxes(boxes1, boxes2) + trade_off * v


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    width, height = F.relu(boxes[:, 2:] - boxes[:, :2]).unbind(dim=1)
    return width, height


def _intersection_and_union(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    top_left = torch.maximum(boxes1[:, :2], boxes2[:, :2])
    bottom_right = torch.minimum(boxes1[:, 2:], boxes2[:, 2:])
    width, height = _sides(torch.cat([top_left, bottom_right], dim=1))
    intersection = width * height
    areas = [width * height for width, height in (_sides(boxes1), _sides(boxes2))]
    return intersection, areas[0] + areas[1] - intersection


def _enclosing_sides(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    top_left = torch.minimum(boxes1[:, :2], boxes2[:, :2])
    bottom_right = torch.maximum(boxes1[:, 2:], boxes2[:, 2:])
    return _sides(torch.cat([top_left, bottom_right], dim=1))


def _aspect_angle(boxes: Tensor) -> Tensor:
    """Return atan(w / h). For a box without area it is defined, with a finite gradient."""
    width, height = _sides(boxes)
    return torch.atan2(width.clamp(min=EPS), height.clamp(min=EPS))
