"""C++ implementation of :mod:`~focal_plugin.ops.match_anchors`, see `csrc/match_anchors.cpp`."""

from __future__ import annotations

import torch
from torch import Tensor

from .implementations import why_no_cpp


def why_not(anchors: Tensor) -> str | None:
    """Return the reason why it cannot be used for these anchors, or None."""
    return why_no_cpp(anchors.device)


def match(
    gt_boxes: list[Tensor],
    anchors: Tensor,
    thresholds: list[float],
    labels: list[int],
    rescue_from: float,
) -> tuple[Tensor, Tensor]:
    """Match the anchors of each image with its objects."""
    matched_idxs, match_labels = torch.ops.focal_plugin.match_anchors(
        gt_boxes, anchors, thresholds, labels, rescue_from
    )
    return matched_idxs, match_labels
