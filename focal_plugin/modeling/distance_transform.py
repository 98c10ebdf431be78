"""Boxes as the distances of their sides from the center of an anchor, for TorchScript too."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.jit.script
class DistanceTransform:
    """
    Conversion between boxes and the distances of their sides from the center of an anchor.

    A distance is in units of the anchor's width or height. The interface is that of Detectron2's
    `Box2BoxTransform`. Its own `Box2BoxTransformLinear` cannot be compiled by TorchScript.
    """

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """
        Return the distances of the left, top, right and bottom sides, (V, 4).

        Args:
            src_boxes, target_boxes: (V, 4), XYXY. A distance is negative if the center of the
                anchor lies outside of the box.
        """
        center = (src_boxes[:, :2] + src_boxes[:, 2:]) / 2
        size = src_boxes[:, 2:] - src_boxes[:, :2]
        lower, upper = center - target_boxes[:, :2], target_boxes[:, 2:] - center
        return torch.cat([lower / size, upper / size], dim=1)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """
        Return the boxes with these distances, (V, 4). A negative distance counts as 0.

        Args:
            deltas: (V, 4), the distances.
            boxes: (V, 4), XYXY, the anchors.
        """
        boxes = boxes.to(deltas.dtype)
        distances = deltas.clamp(min=0)
        center = (boxes[:, :2] + boxes[:, 2:]) / 2
        size = boxes[:, 2:] - boxes[:, :2]
        lower, upper = center - distances[:, :2] * size, center + distances[:, 2:] * size
        return torch.cat([lower, upper], dim=1)
