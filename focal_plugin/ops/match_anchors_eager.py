"""PyTorch implementation of :mod:`~focal_plugin.ops.match_anchors`, in chunks of pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

PAIRS_PER_CHUNK = 30_000
"""
Number of pairs in a chunk. PyTorch does not split so few between threads. Threads would cost more
than they save at so many calls, most of all if another process uses a core.
"""


def why_not(anchors: Tensor) -> str | None:
    """Return None: nothing prevents it."""
    return None


def match(
    gt_boxes: list[Tensor],
    anchors: Tensor,
    thresholds: list[float],
    labels: list[int],
    rescue_from: float,
) -> tuple[Tensor, Tensor]:
    """Match in two passes, because the largest IoUs are known only after the first pass."""
    matched_idxs = torch.zeros(
        len(gt_boxes), len(anchors), dtype=torch.int64, device=anchors.device
    )
    best = anchors.new_zeros(matched_idxs.shape)
    is_best = torch.zeros_like(matched_idxs, dtype=torch.bool)
    for n, boxes in enumerate(gt_boxes):
        if not len(boxes):
            continue
        top = boxes.new_zeros(len(boxes), 1)
        from_the_end = torch.arange(len(boxes), 0, -1.0, device=boxes.device).unsqueeze(1)
        for chunk, iou in _ious(boxes, anchors):
            best[n, chunk] = iou.amax(dim=0)
            # The first object that attains it. `iou.max(dim=0)` would start all threads each time
            last = (from_the_end * (iou == best[n, chunk])).amax(dim=0)
            matched_idxs[n, chunk] = len(boxes) - last.long()
            top = torch.maximum(top, iou.amax(dim=1, keepdim=True))
        if rescue_from < math.inf:
            for chunk, iou in _ious(boxes, anchors):
                is_best[n, chunk] = ((iou == top) & (top > 0)).any(dim=0)
    match_labels = torch.full_like(best, labels[0], dtype=torch.int8)
    for threshold, label in zip(thresholds, labels[1:], strict=True):
        match_labels.masked_fill_(best >= threshold, label)
    return matched_idxs, match_labels.masked_fill_(is_best & (best >= rescue_from), 1)


def _ious(boxes: Tensor, anchors: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of anchors with the IoUs (M, ..) of all objects."""
    size = max(1, PAIRS_PER_CHUNK // len(boxes))
    x1, y1, x2, y2 = boxes.unsqueeze(2).unbind(dim=1)  # (M, 1)
    area = (x2 - x1) * (y2 - y1)
    for start in range(0, len(anchors), size):
        chunk = slice(start, start + size)
        ax1, ay1, ax2, ay2 = anchors[chunk].unbind(dim=1)
        width = (torch.minimum(x2, ax2) - torch.maximum(x1, ax1)).clamp_(min=0)
        height = (torch.minimum(y2, ay2) - torch.maximum(y1, ay1)).clamp_(min=0)
        overlap = width.mul_(height)
        iou = overlap / (area + (ax2 - ax1) * (ay2 - ay1) - overlap)
        yield chunk, iou.nan_to_num_(nan=0.0)  # 0 / 0, or a box with a NaN
