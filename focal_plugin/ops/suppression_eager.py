"""Implementation of :mod:`~focal_plugin.ops.suppression` by torchvision's `nms`."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


def why_not(device: torch.device) -> str | None:
    """Return None: nothing prevents it."""
    return None


def suppress(boxes: Tensor, groups: Tensor, competing: Tensor, threshold: float) -> Tensor:
    """Return the survivors of each list, group by group."""
    survivors = torch.zeros_like(competing)
    for row, of_row in enumerate(competing):
        place = of_row.nonzero().squeeze(1)
        # Not batched_nms: it shifts the boxes of each group by the largest coordinate. That
        # separates them only if no coordinate is negative, and anchors often have negative ones.
        for group in groups[row, place].unique():
            members = place[groups[row, place] == group]
            # Ranks, because the order of equal scores in nms depends on its version
            rank = torch.arange(len(members), 0, -1, dtype=torch.float32, device=boxes.device)
            survivors[row, members[nms(boxes[row, members], rank, threshold)]] = True
    return survivors
