"""Input of a miner, and its checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from ..checks import check_count, check_labels

BoxesOf: TypeAlias = Callable[[int | Tensor, Tensor], Tensor]
"""
Function from the images and the anchors of some boxes to these boxes, XYXY, (V, 4).

Both are indices, int64 (V,). The image may also be one number for all.
"""


def check_num_classes(value: int | None) -> int | None:
    """
    Return ``value`` if it is None or an integer >= 1.

    Raises:
        IllegalOptionError: it is neither.
    """
    return None if value is None else check_count("num_classes", value, low=1)


def check_inputs(
    loss: Tensor, labels: Tensor, boxes: Tensor | None = None, *, num_classes: int | None = None
) -> Tensor:
    """
    Return the labels, as in :func:`check_labels`, if the tensors of a miner match.

    Raises:
        ValueError: the shapes do not match, labels are not integers, or a label is outside
            -1..num_classes. The range is checked on the CPU only, because it would stall a GPU.
    """
    if loss.shape != labels.shape:
        raise ValueError(
            "loss and labels must have the same shape, got "
            f"{tuple(loss.shape)} and {tuple(labels.shape)}"
        )
    if boxes is not None and boxes.shape != (*labels.shape, 4):
        raise ValueError(
            f"boxes must be {(*labels.shape, 4)} with labels {tuple(labels.shape)}, "
            f"got {tuple(boxes.shape)}"
        )
    return check_labels(labels, num_classes=num_classes)
