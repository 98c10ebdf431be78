"""
Cumulative distribution of a loss over the anchors: Figure 4 of the focal loss paper
(arXiv:1708.02002).
"""

from __future__ import annotations

import numpy as np


def cumulative_loss(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Compute the cumulative share of the total loss, from the easiest anchor to the hardest.

    Args:
        losses: (V,), >= 0, losses of the positives or of the negatives, in any order.

    Returns:
        two arrays (V+1,), from 0 to 1: the share of the anchors, easiest first, and their share of
        the loss. The second array is all 0 if the total loss is 0.
    """
    losses = np.sort(np.asarray(losses, dtype=np.float64))
    held = np.concatenate([[0.0], losses.cumsum()])
    total = held[-1]
    return np.linspace(0.0, 1.0, len(held)), held / total if total > 0 else held


def share_of_hardest(losses: np.ndarray, fraction: float) -> float:
    """
    Compute the share of the total loss from the hardest anchors.

    Args:
        losses: see :func:`cumulative_loss`.
        fraction: share of the anchors that count as hardest, in [0, 1].

    Returns:
        their share of the total loss; 0 if the total loss is 0.

    Raises:
        ValueError: the fraction is outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be in [0, 1], got {fraction}")
    anchors, held = cumulative_loss(losses)
    return float(held[-1] - np.interp(1 - fraction, anchors, held))
