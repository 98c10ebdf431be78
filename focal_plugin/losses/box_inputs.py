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
        TypeError: one of them is no tensor.
        ValueError: the shapes do not match.
    """
    for name, value in (("predictions", pred), ("targets", target)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if pred.shape != target.shape or pred.dim() != 2 or pred.shape[1] != 4:
        raise ValueError(
            "predictions and targets must both be (V, 4), got "
            f"{tuple(pred.shape)} and {tuple(target.shape)}"
        )
    return pred.float(), target.float()


def xyxy_pair(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """
    Convert boxes to float32 like :func:`float32_pair`, and check their corners.

    Raises:
        ValueError: the shapes do not match, or (checked on the CPU only, because the check would
            stall a GPU) a box has x2 < x1 or y2 < y1. A NaN from a diverged network passes, so
            that the loss shows it.
    """
    pair = float32_pair(pred, target)
    for name, boxes in zip(("predictions", "targets"), pair, strict=True):
        if boxes.device.type == "cpu":
            swapped = (boxes[:, 2:] < boxes[:, :2]).any(dim=1).nonzero().flatten()
            if len(swapped):
                row = int(swapped[0])
                raise ValueError(
                    f"{name} must be (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, got "
                    f"{boxes[row].tolist()} in row {row}: convert (x, y, width, height) first"
                )
    return pair


def absolute_errors(pred: Tensor, target: Tensor) -> Tensor:
    """Return |pred - target|, float32 (V, 4), see :func:`float32_pair` for arguments and errors."""
    pred, target = float32_pair(pred, target)
    return (pred - target).abs()
