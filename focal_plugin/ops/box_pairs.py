"""
Pairs of objects and anchors, in chunks of bounded size.

Shape shorthand:
    M: number of objects
    R: number of anchors
    m: objects of a chunk
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PAIRS_PER_CHUNK = 1 << 20
"""Pairs of an object and an anchor that are in memory at the same time."""


def object_chunks(num_objects: int, num_anchors: int) -> Iterator[slice]:
    """Yield slices of the objects with at most :data:`PAIRS_PER_CHUNK` pairs, or one object."""
    size = max(1, PAIRS_PER_CHUNK // max(num_anchors, 1))
    for start in range(0, num_objects, size):
        yield slice(start, start + size)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """
    Compute the intersection over union of boxes, in their dtype.

        IoU = overlap / (area1 + area2 - overlap), 0 if a box has no area

    Args:
        boxes1, boxes2: (..., 4), XYXY. The leading shapes broadcast: (m, 1, 4) with (R, 4) gives
            all pairs.

    Returns:
        (...), in [0, 1]; 0 for a box with a NaN.
    """
    x1, y1, x2, y2 = boxes1.unbind(dim=-1)
    u1, v1, u2, v2 = boxes2.unbind(dim=-1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    overlap = width * height
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - overlap
    return (overlap / union).nan_to_num(nan=0.0)


def smallest(values: Tensor, k: int) -> Tensor:
    """
    Return the indices of the k smallest values of each row, in the order of (value, index).

    `torch.topk` alone would choose among equal values by the device and the version.

    Args:
        values: (m, R). A NaN comes last.
        k: >= 0.

    Returns:
        int64 (m, min(k, R)).
    """
    k = min(k, values.shape[1])
    if k == 0:
        return torch.empty(len(values), 0, dtype=torch.int64, device=values.device)
    values = values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    last = values.topk(k, dim=1, largest=False).values[:, -1:]
    below, tied = values < last, values == last
    room = k - below.sum(dim=1, keepdim=True)
    chosen = below | (tied & (tied.cumsum(dim=1, dtype=torch.int32) <= room))
    index = chosen.nonzero()[:, 1].view(-1, k)
    order = values.gather(1, index).sort(dim=1, stable=True).indices
    return index.gather(1, order)
