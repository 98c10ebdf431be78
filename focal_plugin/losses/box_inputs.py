"""Common preprocessing of the two arguments of a box loss."""

from __future__ import annotations

from torch import Tensor


def float32_pair(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """
    Convert predictions and targets to float32.

    Args:
        pred, target: (V, 4), any floating dtype.

    Returns:
        both in float32.

    Raises:
        ValueError: the shapes do not match.
    """
    if pred.shape != target.shape or pred.dim() != 2 or pred.shape[1] != 4:
        raise ValueError(
            "predictions and targets must both be (V, 4), got "
            f"{tuple(pred.shape)} and {tuple(target.shape)}"
        )
    return pred.float(), target.float()


def absolute_errors(pred: Tensor, target: Tensor) -> Tensor:
    """Return |pred - target|, float32 (V, 4), see :func:`float32_pair` for arguments and errors."""
    pred, target = float32_pair(pred, target)
    return (pred - target).abs()
