"""
The loss of a single logit and its derivative, as formulas in a few quantities that are computed
once and never cancel: what a new elementwise loss writes to be as fast as the others.

With x_t the logit of the truth (x for a positive, -x for a negative), p_t = sigmoid(x_t) is the
probability given to it.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F


class Point:
    """
    Signed logits, and what formulas are made of: each accurate to the last bits for every x_t, and
    computed when it is first asked for.

    Attributes:
        x: x_t, any shape, floating.
    """

    def __init__(self, x: Tensor, quality: Tensor | None = None) -> None:
        self.x = x
        self._quality = quality
        self._powers: dict[float, Tensor] = {}

    @property
    def quality(self) -> Tensor:
        """The same shape, in [0, 1], for formulas that want it."""
        assert self._quality is not None
        return self._quality

    @functools.cached_property
    def minus_x(self) -> Tensor:
        return -self.x

    @functools.cached_property
    def p(self) -> Tensor:
        """p_t."""
        return torch.sigmoid(self.x)

    @functools.cached_property
    def q(self) -> Tensor:
        """1 - p_t, not rounded to 0 where p_t is nearly 1."""
        return torch.sigmoid(self.minus_x)

    @functools.cached_property
    def ce(self) -> Tensor:
        """-log(p_t), the cross entropy."""
        return F.softplus(self.minus_x)

    @functools.cached_property
    def ce_of_q(self) -> Tensor:
        """-log(1 - p_t)."""
        return F.softplus(self.x)

    def q_power(self, gamma: float | Tensor) -> Tensor | float:
        """(1 - p_t)^gamma for gamma >= 0, which may be one number for all or a tensor."""
        if isinstance(gamma, Tensor):
            return self.q**gamma
        if gamma == 0:
            return 1.0
        if gamma not in self._powers:
            self._powers[gamma] = self.q**gamma if gamma != 1 else self.q
        return self._powers[gamma]


class Formula:
    """
    Base of the formulas. A subclass is a frozen dataclass of its parameters and implements
    :meth:`value` and :meth:`slope`; every finite x_t must give finite ones.

    That is enough to be used by :func:`~focal_plugin.ops.dense_loss`, in PyTorch. One that
    also stands in `csrc/formulas.h` and in `dense_loss_triton_kernel.py` says so by :attr:`kernel`,
    and is used from there where it can be.
    """

    kernel: ClassVar[str | None] = None
    """What it is called in C++ and in Triton; None: it is there in PyTorch only."""
    wants_quality: ClassVar[bool] = False
    """Reads :attr:`Point.quality`."""

    @property
    def parameters(self) -> tuple[float, ...]:
        """What the kernel is to be given, in the order of its own parameters."""
        return ()

    def value(self, at: Point) -> Tensor:
        """The loss, elementwise."""
        raise NotImplementedError

    def slope(self, at: Point) -> Tensor:
        """Its derivative with respect to x_t, elementwise."""
        raise NotImplementedError


def apply_formula(formula: Formula, x_t: Tensor, quality: Tensor | None = None) -> Tensor:
    """
    The loss of each signed logit, with the formula's own slope as gradient.

    Args:
        formula: of any kind; its tensors, if it has any, broadcast with ``x_t``.
        x_t: any shape, floating; computed in its own precision.
        quality: the same shape, for a formula that wants it; a constant.

    Returns:
        the same shape. It can be differentiated once.
    """
    loss: Tensor = _Apply.apply(x_t, formula, quality)
    return loss


def refuse_second_derivative() -> None:
    """
    For a backward pass whose result does not depend on its input as autograd would have it.

    Raises:
        RuntimeError: it is asked for with `create_graph=True`.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("this loss can be differentiated once, not twice (create_graph=True)")


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_t: Tensor, formula: Formula, quality: Tensor | None) -> Tensor:
        at = Point(x_t, quality)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(formula.slope(at))
        return formula.value(at)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative()
        (slope,) = ctx.saved_tensors
        return upstream * slope, None, None
