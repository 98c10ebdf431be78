"""
Loss per anchor from logits and integer labels, for losses of independent binary classes.

An anchor of class c is a positive for logit c and a negative for all others. A background anchor is
a negative for all. There is no one-hot target. The negative loss is computed for every logit, and
the positive loss replaces it at the one logit that the label names.

Shape shorthand:
    ...: any leading shape, one entry per anchor
    K: number of classes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import IllegalOptionError, check_labels, check_number

ALPHA_OFF = -1
"""Value of "no alpha" in Detectron2 and fvcore, where None is not available."""


class OneVsRest(NamedTuple):
    """Positive and negative loss of each anchor, float32 (...); both are 0 for ignored anchors."""

    positive: Tensor
    """Loss of the logit that the label names; 0 for background."""
    negative: Tensor
    """Loss summed over all other logits."""


def one_vs_rest(
    logits: Tensor,
    labels: Tensor,
    *,
    positive: Callable[[Tensor, Tensor], Tensor],
    negative: Callable[[Tensor], Tensor],
) -> OneVsRest:
    """
    Compute the loss of each anchor as a sum of independent binary losses.

    Both ``positive`` and ``negative`` must be finite, gradient included, for every logit up to
    1e30.

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        positive: loss of a logit whose class is the label: float32 logits (...) and int64 classes
            (...) in 0..K-1 -> (...). For an anchor without a class, it receives another column and
            its result is dropped.
        negative: loss of a logit whose class is not the label: float32 (..., K) -> (..., K).

    Returns:
        the two sums. The logits of ignored anchors, NaN included, affect neither.

    Raises:
        ValueError: the shapes do not match, or a label is outside -1..K. On a GPU a label outside
            the range raises a device assertion instead, because a check would stall it.
    """
    elements = _elements(logits, labels, positive=positive, negative=negative)
    negative_sum = elements.elsewhere.sum(-1).masked_fill(elements.ignored, 0.0)
    return OneVsRest(positive=elements.at_label, negative=negative_sum)


def sum_per_class(
    logits: Tensor,
    labels: Tensor,
    *,
    positive: Callable[[Tensor, Tensor], Tensor],
    negative: Callable[[Tensor], Tensor],
) -> OneVsRest:
    """
    Compute the positive and the negative loss of each class, summed over anchors.

    The arguments are those of :func:`one_vs_rest`.

    Returns:
        two sums, float32 (K,).
    """
    elements = _elements(logits, labels, positive=positive, negative=negative)
    elsewhere = elements.elsewhere.masked_fill(elements.ignored.unsqueeze(-1), 0.0)
    negative_sum = elsewhere.reshape(-1, logits.shape[-1]).sum(0)
    return OneVsRest(
        positive=torch.zeros_like(negative_sum).scatter_add(
            0, elements.classes.flatten(), elements.at_label.flatten()
        ),
        negative=negative_sum,
    )


class _Elements(NamedTuple):
    at_label: Tensor  # (...), loss of the logit that the label names; 0 if there is none
    elsewhere: Tensor  # (..., K), loss of all other logits, and 0 at the label
    classes: Tensor  # (...), the label, or 0 if it is not a class
    ignored: Tensor  # (...), bool; the values of elsewhere are undefined there


def _elements(
    logits: Tensor,
    labels: Tensor,
    *,
    positive: Callable[[Tensor, Tensor], Tensor],
    negative: Callable[[Tensor], Tensor],
) -> _Elements:
    check_inputs(logits, labels, num_classes=logits.shape[-1] if logits.dim() else 0)
    labels = labels.long()
    ignored = labels == -1
    has_class = ~ignored & (labels != logits.shape[-1])
    # Background and ignored anchors point at column 0 and leave it unchanged. A label out of range
    # still points out of range, so that the gather of a GPU fails.
    classes = labels.masked_fill(~has_class, 0)
    column = classes.unsqueeze(-1)

    logits = logits.float().masked_fill(ignored.unsqueeze(-1), 0.0)
    at_label = positive(logits.gather(-1, column).squeeze(-1), classes)
    loss = negative(logits)
    kept = loss.gather(-1, column).masked_fill(has_class.unsqueeze(-1), 0.0)
    return _Elements(
        at_label=torch.where(has_class, at_label, torch.zeros_like(at_label)),
        elsewhere=loss.scatter(-1, column, kept),
        classes=classes,
        ignored=ignored,
    )


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
