"""What the options and the tensors of a miner must be."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

from ..registry import IllegalOptionError


def check_count(option: str, value: int, *, low: int) -> int:
    """
    Returns:
        ``value``, an integer >= low.

    Raises:
        IllegalOptionError: it is not.
    """
    if not isinstance(value, numbers.Integral) or value < low:
        raise IllegalOptionError(option, f"must be an integer >= {low}, got {value!r}")
    return value


def check_choice(option: str, value: str, choices: Sequence[str]) -> str:
    """
    Returns:
        ``value``, one of ``choices``.

    Raises:
        IllegalOptionError: it is not.
    """
    if value not in choices:
        listed = " or ".join(repr(choice) for choice in choices)
        raise IllegalOptionError(option, f"must be {listed}, got {value!r}")
    return value


def check_nms_thresh(value: float) -> float:
    """
    Returns:
        ``value``, an IoU in [0, 1].

    Raises:
        IllegalOptionError: it is not.
    """
    if not 0 <= value <= 1:
        raise IllegalOptionError("nms_thresh", f"must be in [0, 1], got {value}")
    return value


def check_neg_pos_ratio(value: float) -> float:
    """
    Returns:
        ``value``, > 0 and finite.

    Raises:
        IllegalOptionError: it is not.
    """
    if not 0 < value < math.inf:
        raise IllegalOptionError("neg_pos_ratio", f"must be > 0 and finite, got {value}")
    return value


def check_num_classes(value: int | None) -> int | None:
    """
    Returns:
        ``value``, None or an integer >= 1.

    Raises:
        IllegalOptionError: it is neither.
    """
    return None if value is None else check_count("num_classes", value, low=1)


def check_inputs(
    loss: Tensor, labels: Tensor, boxes: Tensor | None = None, *, num_classes: int | None = None
) -> None:
    """
    Raises:
        ValueError: shapes that do not fit, labels that are not integers, or (looked for on the CPU
            only, as a GPU would be stalled) a label outside -1..num_classes.
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
    if labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.device.type == "cpu" and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < -1 or (num_classes is not None and high > num_classes):
            bound = "" if num_classes is None else f"..{num_classes} (K, background)"
            raise ValueError(f"labels must be in -1{bound or ' and up'}, got {low}..{high}")
