"""
Loss and gradient of one binary logit, without training.

The curves are those of Figure 1 of the focal loss paper (arXiv:1708.02002), as a function of x_t,
the variable of its appendix A.

Shape shorthand:
    P: points of a curve
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..losses import CLS_LOSS_REGISTRY, ClassificationLoss
from ..losses.base import require_dense_columns
from ..names import did_you_mean

ONE_CLASS: dict[str, Any] = {"num_classes": 1, "samples_per_class": (1,)}
"""Options that a curve sets itself, for losses that have them: there is one class."""


@dataclass(frozen=True)
class Side:
    """
    LossCurve of one label: positive or negative.

    Attributes:
        loss: (P,), at each x_t.
        gradient: (P,), |d loss / d x_t|.
    """

    loss: np.ndarray
    gradient: np.ndarray

    def equals(self, other: Side) -> bool:
        """Return True if both are equal up to the rounding of float32."""
        return np.allclose(self.loss, other.loss, rtol=1e-5, atol=1e-6) and np.allclose(
            self.gradient, other.gradient, rtol=1e-5, atol=1e-6
        )


@dataclass(frozen=True)
class LossCurve:
    """
    Loss of one logit x with label y in {-1, +1}, as a function of x_t = y * x.

    Attributes:
        name: name of the loss, with the given options.
        x_t: (P,).
        positive: the curve of y = +1. The box of a positive fits its object perfectly (IoU 1).
        negative: the curve of y = -1.
    """

    name: str
    x_t: np.ndarray
    positive: Side
    negative: Side

    @property
    def is_symmetric(self) -> bool:
        """True if positives and negatives have the same loss at the same p_t."""
        return self.positive.equals(self.negative)

    def equals(self, other: LossCurve) -> bool:
        """Return True if both have the same curves, whatever their names."""
        return self.positive.equals(other.positive) and self.negative.equals(other.negative)


def trace_loss(text: str, x_t: np.ndarray) -> LossCurve:
    """
    Trace the loss and the gradient of one logit.

    For a softmax loss, the second logit, the background's, is 0, so that p is the sigmoid of the
    first. A stateful loss is in its initial state. A loss that requires the number of objects per
    class has one class.

    Args:
        text: a registered name, with options as in "SigmoidFocalLoss:gamma=0.5,alpha=None".
        x_t: (P,).

    Raises:
        ValueError: no loss has that name, an option is unknown or out of range, or the loss has no
            curve because the loss of an anchor depends on the rest of the batch or on more logits.
    """
    cls_loss = parse_loss(text)
    require_dense_columns(cls_loss)
    if cls_loss.own_normalizer:
        raise ValueError(
            f"{type(cls_loss).__name__} has no curve: the loss of an anchor depends on the other "
            "anchors in the batch"
        )
    return LossCurve(
        name=text.strip(),
        x_t=x_t,
        positive=_trace_side(cls_loss, x_t, sign=1),
        negative=_trace_side(cls_loss, x_t, sign=-1),
    )


def parse_loss(text: str) -> ClassificationLoss:
    """
    Build a loss from its name and options.

    Args:
        text: "NAME" or "NAME:option=value,option=value"; a value is a Python literal, or else text.

    Raises:
        ValueError: see :func:`trace_loss`.
    """
    name, _, listed = text.strip().partition(":")
    losses: dict[str, type[ClassificationLoss]] = dict(CLS_LOSS_REGISTRY)
    if name not in losses:
        raise ValueError(_unknown("loss", name, losses))
    known = list(inspect.signature(losses[name].__init__).parameters)[1:]
    options = {option: value for option, value in ONE_CLASS.items() if option in known}
    for item in filter(None, re.split(r",(?![^(\[]*[)\]])", listed)):  # except commas in a list
        option, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise ValueError(f"{text!r}: an option must be option=value, got {item!r}")
        if option not in known:
            raise ValueError(f"{name}: {_unknown('option', option, known)}")
        options[option] = _literal(value)
    try:
        return losses[name](**options)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{text!r}: {error}") from error


def _trace_side(cls_loss: ClassificationLoss, x_t: np.ndarray, *, sign: int) -> Side:
    x = torch.as_tensor(sign * x_t, dtype=torch.float32).requires_grad_()
    logits = x.unsqueeze(1)  # (P, 1)
    if cls_loss.softmax:
        logits = torch.nn.functional.pad(logits, (0, 1))
    labels = torch.full(x.shape, 0 if sign > 0 else 1)
    quality = torch.ones_like(x) if cls_loss.needs_quality else None
    loss = cls_loss.per_anchor(logits, labels, quality=quality)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return Side(loss=loss.detach().numpy(), gradient=gradient.abs().numpy())


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _unknown(kind: str, name: str, known: Any) -> str:
    hint = did_you_mean(name, known, cutoff=0.4)
    return f"no {kind} {name!r}{hint}. Available: {', '.join(sorted(known)) or 'none'}"
