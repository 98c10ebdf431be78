"""
Loss and gradient of one binary logit, without training: Figure 1 of the focal loss paper, in the
variable of its appendix A (arXiv:1708.02002).

Shape shorthand:
    P: points of a curve
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..losses import CLS_LOSS_REGISTRY, ClassificationLoss

ONE_CLASS: dict[str, Any] = {"num_classes": 1, "samples_per_class": (1,)}
"""Options that a curve sets itself, of losses that have them: there is one class."""


@dataclass(frozen=True)
class Side:
    """
    Attributes:
        loss: (P,), at each x_t.
        gradient: (P,), |d loss / d x_t|.
    """

    loss: np.ndarray
    gradient: np.ndarray

    def equals(self, other: Side) -> bool:
        """Up to the rounding of float32."""
        return np.allclose(self.loss, other.loss, rtol=1e-5, atol=1e-6) and np.allclose(
            self.gradient, other.gradient, rtol=1e-5, atol=1e-6
        )


@dataclass(frozen=True)
class Curve:
    """
    A loss of one logit x whose truth is y in {-1, +1}, against x_t = y * x.

    Attributes:
        name: of the loss, with the options it was given.
        x_t: (P,).
        positive: where y = +1, the box of a positive fits its object perfectly (IoU 1).
        negative: where y = -1.
    """

    name: str
    x_t: np.ndarray
    positive: Side
    negative: Side

    @property
    def is_symmetric(self) -> bool:
        """Positives and negatives of the same p_t are as hard."""
        return self.positive.equals(self.negative)

    def equals(self, other: Curve) -> bool:
        """Whatever they are called."""
        return self.positive.equals(other.positive) and self.negative.equals(other.negative)


def trace_loss(text: str, x_t: np.ndarray) -> Curve:
    """
    Args:
        text: a registered name, with options as in "SigmoidFocalLoss:gamma=0.5,alpha=None".
        x_t: (P,).

    A softmax loss has a second logit, the background's, of 0: its p is that of the sigmoid. A loss
    that learns is in its initial state, and one that asks for the objects of each class has one
    class.

    Raises:
        ValueError: no loss has that name, it has no such option or not in that range, or it has no
            curve because the loss of an anchor depends on the others in the batch.
    """
    cls_loss = parse_loss(text)
    if cls_loss.own_normalizer:
        raise ValueError(
            f"{type(cls_loss).__name__} has no curve: it weighs an anchor by how many others of "
            "the batch have a gradient like its own"
        )
    return Curve(
        name=text.strip(),
        x_t=x_t,
        positive=_trace_side(cls_loss, x_t, sign=1),
        negative=_trace_side(cls_loss, x_t, sign=-1),
    )


def parse_loss(text: str) -> ClassificationLoss:
    """
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
    for item in filter(None, re.split(r",(?![^(\[]*[)\]])", listed)):  # not the commas in a list
        option, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise ValueError(f"{text!r}: an option is option=value, got {item!r}")
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
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"no {kind} {name!r}{hint}. There are: {', '.join(sorted(known)) or 'none'}"
