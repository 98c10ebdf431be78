"""
Distribution focal loss: cross entropy of the two bins around a distance.

Shape shorthand:
    B: number of bins, at the distances 0, 1, ..., B - 1
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MARGIN = 0.1
"""Distance of the largest target from the last bin."""


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """
    Compute the distribution focal loss (DFL) of each distance.

        DFL = -(i + 1 - y) * log(p_i) - (y - i) * log(p_{i+1}),  i = floor(y),  p = softmax(x)

    y is the target, clipped to [0, B - 1.1]. The gradient is softmax(x) minus the weights of both
    bins, so that the mean of p equals y at the minimum. (arXiv:2006.04388 eq. 6.)

    Args:
        logits: (..., B), any floating dtype; computed in float32. B >= 2.
        target: (...), distances in units of the bins; a constant.

    Returns:
        float32 (...).

    Raises:
        ValueError: the shapes do not match, or there are fewer than 2 bins.
    """
    if logits.shape[:-1] != target.shape or logits.shape[-1] < 2:
        raise ValueError(
            "logits (..., B >= 2) and target (...) must have the same leading shape, got "
            f"{tuple(logits.shape)} and {tuple(target.shape)}"
        )
    last = logits.shape[-1] - 1
    distance = target.detach().float().clamp(0, last - MARGIN)
    lower = distance.floor()
    log_p = F.log_softmax(logits.float(), dim=-1)
    bins = torch.stack([lower, lower + 1], dim=-1).long()
    weights = torch.stack([lower + 1 - distance, distance - lower], dim=-1)
    return -(weights * log_p.gather(-1, bins)).sum(dim=-1)


def expected_distance(logits: Tensor) -> Tensor:
    """
    Return the mean distance of a distribution over bins, sum of i * softmax(x)_i.

    Args:
        logits: (..., B), any floating dtype; computed in float32.

    Returns:
        float32 (...), in [0, B - 1].
    """
    bins = torch.arange(logits.shape[-1], device=logits.device, dtype=torch.float32)
    return logits.float().softmax(dim=-1) @ bins
