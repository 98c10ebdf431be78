"""
Training targets of all anchors of a batch.

Shape shorthand:
    N: number of images
    R: anchors per image over all levels
    K: number of classes
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DenseTargets(NamedTuple):
    """
    Targets that an assigner gives to the anchors of a batch.

    Attributes:
        labels: (N, R), int64 in {-1 (ignored), 0..K-1, K (background)}.
        gt_boxes: one per image, (R, 4), XYXY, used where the label is a class.
        objects: (N, R), int64, index of each positive's object in its image, used where the label
            is a class; None if it is unknown.
        quality: (N, R), in [0, 1], a target in place of the IoU of the predicted box, for a loss
            with `needs_quality`; None: the IoU.
        weight: (N, R), >= 0, weight of each positive. Its sum then replaces the number of positives
            in the normalizer. None: 1 each.
        num_unassigned: (N,), int64, objects of each image without a positive; None: unknown.
    """

    labels: Tensor
    gt_boxes: list[Tensor]
    objects: Tensor | None = None
    quality: Tensor | None = None
    weight: Tensor | None = None
    num_unassigned: Tensor | None = None
