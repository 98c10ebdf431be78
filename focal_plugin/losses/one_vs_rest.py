"""
Checks of the input and the options of losses of independent binary classes.

An anchor of class c is a positive for logit c and a negative for all others. A background anchor is
a negative for all. There is no one-hot target.

Shape shorthand:
    ...: any leading shape, one entry per anchor
    K: number of classes
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import IllegalOptionError, check_labels, check_number

ALPHA_OFF = -1
"""Value of "no alpha" in Detectron2 and fvcore, where None is not available."""


def check_alpha(alpha: float | None) -> float | None:
    """
    Return alpha, or None if it is disabled by None, or by -1 as in Detectron2 and fvcore.

    Raises:
        IllegalOptionError: alpha is neither disabled nor in [0, 1].
    """
    if alpha is None:
        return None
    try:
        number = check_number("alpha", alpha)
    except IllegalOptionError as error:
        raise IllegalOptionError(
            "alpha",
            f"{error.requirement}; class_alpha of the sigmoid and the softmax focal loss has one "
            "number for each class",
        ) from None
    if number == ALPHA_OFF:
        return None
    if not 0 <= number <= 1:
        raise IllegalOptionError("alpha", f"must be in [0, 1], or -1 for off, got {alpha}")
    return number


def check_one_per_class(
    option: str, values: Tensor, logits: Tensor, *, key: str | None = None
) -> Tensor:
    """
    Return ``values`` on the device of the logits, if there is one number per logit.

    Args:
        option: name of ``values``.
        key: config key of ``values``; None if they do not come from a config.

    Raises:
        IllegalOptionError: there are more or fewer; the message names the option and its key.
    """
    if len(values) != logits.shape[-1]:
        where = f"({key}) " if key else ""
        raise IllegalOptionError(
            option,
            f"{where}must be {logits.shape[-1]} numbers, one for each class, got {len(values)}",
        )
    return values.to(logits.device)


def check_inputs(logits: Tensor, labels: Tensor, *, num_classes: int) -> None:
    """
    Raise an error if logits and labels do not match.

    Raises:
        TypeError: logits or labels are no tensor.
        ValueError: the shapes do not match, labels are not integers, or (checked on the CPU only) a
            label is outside -1..num_classes.
    """
    for name, value in (("logits", logits), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if logits.shape[:-1] != labels.shape or logits.dim() == 0:
        raise ValueError(
            "logits must be (..., K) and labels (...), got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    check_labels(labels, num_classes=num_classes)


def check_quality(quality: Tensor | None, labels: Tensor, *, num_classes: int) -> Tensor:
    """
    Return the quality (...), without a gradient, and 0 where the label is not a class.

    It is float64 if it was, else float32.

    Raises:
        ValueError: there is no quality, its shape is not that of the labels, or (checked on the
            CPU only) an anchor with a class has a quality outside [0, 1]. A NaN from a diverged
            network passes, so that the loss shows it.
    """
    if quality is None or quality.shape != labels.shape:
        shape = None if quality is None else tuple(quality.shape)
        raise ValueError(f"quality must be {tuple(labels.shape)} like labels, got {shape}")
    has_class = (labels != -1) & (labels != num_classes)
    dtype = torch.promote_types(quality.dtype, torch.float32)
    quality = quality.detach().to(dtype).masked_fill(~has_class, 0.0)
    if quality.device.type == "cpu" and ((quality < 0) | (quality > 1)).any():
        raise ValueError("quality must be in [0, 1] where the label is a class")
    return quality
