"""
From (logits, integer labels) to a loss per anchor, for losses that take each class as a question
of its own.

An anchor of class c is a positive for logit c and a negative for all others; a background anchor is
a negative for all. No one-hot target is made: the loss of a negative is computed for every logit,
and that of a positive only for the one logit that the label names, whose place it takes.

Shape shorthand:
    ...: any leading shape, one entry an anchor
    K: number of classes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import IllegalOptionError, check_labels, check_number, check_option

ALPHA_OFF = -1
"""What Detectron2 and fvcore write for "no alpha", where a None cannot be written."""


class OneVsRest(NamedTuple):
    """The loss of each anchor, float32 (...), in two parts; both are 0 for ignored anchors."""

    positive: Tensor
    """Of the logit that the label names; 0 for background."""
    negative: Tensor
    """Summed over all other logits."""


def one_vs_rest(
    logits: Tensor,
    labels: Tensor,
    *,
    positive: Callable[[Tensor, Tensor], Tensor],
    negative: Callable[[Tensor], Tensor],
) -> OneVsRest:
    """
    The loss of each anchor as a sum of independent binary losses.

    Args:
        logits: (..., K), any floating dtype; computed in float32.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        positive: loss of a logit whose class is the label's: float32 logits (...) and int64 classes
            (...) in 0..K-1 -> (...). Where there is no class it is called with some other column,
            and its result is dropped.
        negative: loss of a logit whose class is not the label's: float32 (..., K) -> (..., K).

    Both must be finite, gradient included, for every logit up to 1e30.

    Returns:
        the two sums; the logits of ignored anchors (NaN included) reach neither.

    Raises:
        ValueError: shapes that do not fit, or a label outside -1..K (on a GPU, where looking for
            one would stall it, a device assertion instead).
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
    Same arguments as :func:`one_vs_rest`, but summed over anchors: what each class got as positive
    and as negative.

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
    at_label: Tensor  # (...), of the logit that the label names; 0 where it names none
    elsewhere: Tensor  # (..., K), of all logits but that one, where it is 0
    classes: Tensor  # (...), the label, or 0 where it names no class
    ignored: Tensor  # (...), bool: what stands in elsewhere there means nothing


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
    # Background and ignored anchors point at some column, and leave it as it is. A label out of
    # range still points out of range, so that a GPU's gather refuses it.
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
    Returns:
        alpha, or None where it is off: None, or -1 as Detectron2 and fvcore write it.

    Raises:
        IllegalOptionError: alpha is none of these and outside [0, 1].
    """
    if alpha is None or alpha == ALPHA_OFF:
        return None
    check_number("alpha", alpha)
    if not 0 <= alpha <= 1:
        raise IllegalOptionError("alpha", f"must be in [0, 1], or -1 for off, got {alpha}")
    return alpha


def check_class_alpha(class_alpha: Sequence[float]) -> Tensor:
    """
    Returns:
        float32, the same numbers, each in [0, 1].

    Raises:
        IllegalOptionError: one is not.
    """
    for alpha in class_alpha:
        check_option("class_alpha", alpha, low=0, high=1)
    return torch.tensor(list(class_alpha), dtype=torch.float32)


def check_one_per_class(
    option: str, values: Tensor, logits: Tensor, *, key: str | None = None
) -> Tensor:
    """
    Args:
        option: what ``values`` are.
        key: the config key by which they can be changed; None: they came from no config.

    Returns:
        ``values``, one number for each logit of an anchor, on their device.

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
    Raises:
        ValueError: shapes that do not fit, labels that are not integers, or (looked for on the CPU
            only) a label outside -1..num_classes.
    """
    if logits.shape[:-1] != labels.shape or logits.dim() == 0:
        raise ValueError(
            "logits must be (..., K) and labels (...), got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    check_labels(labels, num_classes=num_classes)


def check_quality(quality: Tensor | None, labels: Tensor, *, num_classes: int) -> Tensor:
    """
    Returns:
        float32 (...), the quality where the label is a class, without a gradient, and 0 elsewhere.

    Raises:
        ValueError: there is none, its shape is not that of the labels, or (looked for on the CPU
            only) one of an anchor with a class is outside [0, 1]. NaN, which a diverged network
            gives, is left to the loss to show.
    """
    if quality is None or quality.shape != labels.shape:
        shape = None if quality is None else tuple(quality.shape)
        raise ValueError(f"quality must be {tuple(labels.shape)} like labels, got {shape}")
    has_class = (labels >= 0) & (labels != num_classes)
    quality = quality.detach().float().masked_fill(~has_class, 0.0)
    if quality.device.type == "cpu" and ((quality < 0) | (quality > 1)).any():
        raise ValueError("quality must be in [0, 1] where the label is a class")
    return quality
