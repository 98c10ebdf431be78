"""
How unevenly a loss is spread over the anchors: Figure 4 of the focal loss paper
(arXiv:1708.02002).
"""

from __future__ import annotations

import numpy as np


def cumulative_loss(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The share of the total loss that the easiest anchors hold.

    Args:
        losses: (V,), >= 0, of the positives or of the negatives, in any order.

    Returns:
        two arrays (V+1,), from 0 to 1: the share of the anchors, the easiest first, and that of the
        loss; all of the latter 0 if the loss is.
    """
    losses = np.sort(np.asarray(losses, dtype=np.float64))
    held = np.concatenate([[0.0], losses.cumsum()])
    total = held[-1]
    return np.linspace(0.0, 1.0, len(held)), held / total if total > 0 else held


def share_of_hardest(losses: np.ndarray, fraction: float) -> float:
    """
    Args:
        losses: as in :func:`cumulative_loss`.
        fraction: of the anchors, in [0, 1].

    Returns:
        the share of the total loss that the hardest of them hold; 0 if the loss is 0.

    Raises:
        ValueError: the fraction is outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be in [0, 1], got {fraction}")
    anchors, held = cumulative_loss(losses)
    return float(held[-1] - np.interp(1 - fraction, anchors, held))
