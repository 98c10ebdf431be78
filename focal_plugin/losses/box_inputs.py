"""What every box loss does first with its two arguments."""

from __future__ import annotations

from torch import Tensor


def float32_pair(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """
    Args:
        pred, target: (V, 4), any floating dtype.

    Returns:
        both in float32.

    Raises:
        ValueError: shapes that do not fit.
    """
    if pred.shape != target.shape or pred.dim() != 2 or pred.shape[1] != 4:
        raise ValueError(
            "predictions and targets must both be (V, 4), got "
            f"{tuple(pred.shape)} and {tuple(target.shape)}"
        )
    return pred.float(), target.float()


def absolute_errors(pred: Tensor, target: Tensor) -> Tensor:
    """|pred - target|, float32 (V, 4); arguments and errors as in :func:`float32_pair`."""
    pred, target = float32_pair(pred, target)
    return (pred - target).abs()
