"""
Formulas of the loss of a single logit and its derivative.

They consist of a few quantities that are computed once and without cancellation. A new elementwise
loss written in them is as fast as the others.

Let x_t be the signed logit (x for a positive, -x for a negative). Then p_t = sigmoid(x_t) is the
predicted probability of the true label.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F


class Point:
    """
    Signed logits and the quantities of the formulas.

    Each quantity is accurate to the last bits for every x_t, and is computed on first use.

    Attributes:
        x: x_t, any shape, floating.
    """

    def __init__(self, x: Tensor, quality: Tensor | None = None) -> None:
        self.x = x
        self._quality = quality
        self._powers: dict[float, Tensor | float] = {}
        self._bins: dict[int, Tensor] = {}

    @property
    def quality(self) -> Tensor:
        """Quality of each logit, the same shape, in [0, 1], for formulas that require it."""
        assert self._quality is not None
        return self._quality

    @functools.cached_property
    def minus_x(self) -> Tensor:
        return -self.x

    @functools.cached_property
    def p(self) -> Tensor:
        """Probability p_t."""
        return torch.sigmoid(self.x)

    @functools.cached_property
    def q(self) -> Tensor:
        """Probability 1 - p_t, not rounded to 0 where p_t is nearly 1."""
        return torch.sigmoid(self.minus_x)

    @functools.cached_property
    def ce(self) -> Tensor:
        """Cross entropy, -log(p_t)."""
        return F.softplus(self.minus_x)

    @functools.cached_property
    def ce_of_q(self) -> Tensor:
        """Cross entropy of the other label, -log(1 - p_t)."""
        return F.softplus(self.x)

    def q_power(self, gamma: float | Tensor) -> Tensor | float:
        """Compute (1 - p_t)^gamma for gamma >= 0, which may be a number or a tensor."""
        key = id(gamma) if isinstance(gamma, Tensor) else gamma
        if key not in self._powers:
            self._powers[key] = power(self.q, gamma)
        return self._powers[key]

    def q_bin(self, bins: int) -> Tensor:
        """Find the bin of 1 - p_t, see :func:`bin_index`."""
        if bins not in self._bins:
            self._bins[bins] = bin_index(self.q, bins)
        return self._bins[bins]


def power(base: Tensor, exponent: float | Tensor) -> Tensor | float:
    """
    Compute base^exponent for an exponent >= 0, which may be a number or a tensor.

    PyTorch has fast powers of 2 and 3. The others up to 8 are their products.
    """
    if isinstance(exponent, Tensor) or exponent not in range(9):
        return base**exponent
    if exponent < 2:
        return base if exponent else 1.0
    if exponent < 4:
        return base**exponent
    half = power(base, exponent // 2)
    return half * half * base if exponent % 2 else half * half


def bin_index(norms: Tensor, bins: int) -> Tensor:
    """
    Find the bin of each norm among equal bins of [0, 1].

    Returns:
        int64 in 0..bins-1 for any norm. The loss itself shows a NaN.
    """
    return (norms * bins).long().clamp_(0, bins - 1)


class Formula:
    """
    Base class of the formulas.

    A subclass is a frozen dataclass of its parameters. It implements :meth:`value` and
    :meth:`slope`, which must be finite for every finite x_t. That is enough for the PyTorch
    implementation of :func:`~focal_plugin.ops.dense_loss`.

    A parameter of type `float | Tensor` may be one number for each class, (K,). In :meth:`value`
    and :meth:`slope` it has the shape of x_t, because :meth:`with_parameters` is called before.

    A formula that is also in `csrc/formulas.h` and in `dense_loss_triton_kernel.py` sets
    :attr:`kernel`. These implementations then run where they are available.
    """

    kernel: ClassVar[str | None] = None
    """Name of the formula in C++ and in Triton; None if it is available in PyTorch only."""
    wants_quality: ClassVar[bool] = False
    """True if the formula reads :attr:`Point.quality`."""

    table: Tensor | None = None
    """Table (entries,) that the formula looks up, float32, for any class."""

    @property
    def parameters(self) -> tuple[float | Tensor, ...]:
        """Parameters of the kernel, in its order; up to 4, each a number or a tensor (K,)."""
        return ()

    def with_parameters(self, select: Callable[[Tensor], Tensor]) -> Formula:
        """
        Replace each parameter of all classes, (K,), by ``select`` of it.

        Returns:
            the formula itself if it has no such parameter.
        """
        of_classes = {
            name: select(value)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name != "table"
        }
        return dataclasses.replace(self, **of_classes) if of_classes else self  # type: ignore[type-var]

    def value(self, at: Point) -> Tensor:
        """
        Compute the loss, elementwise.

        A factor that the slope treats as a constant is detached here. So a formula declares that
        its slope is an update, and not the derivative of its value.
        """
        raise NotImplementedError

    def slope(self, at: Point) -> Tensor:
        """Compute the derivative of the value with respect to x_t, its detached parts constant."""
        raise NotImplementedError


def apply_formula(formula: Formula, x_t: Tensor, quality: Tensor | None = None) -> Tensor:
    """
    Compute the loss of each signed logit, with the formula's own slope as gradient.

    Args:
        formula: any formula; its tensors, if any, broadcast with ``x_t``.
        x_t: any shape, floating; computed in its own precision.
        quality: the same shape, for a formula that requires it; a constant.

    Returns:
        the same shape. It can be differentiated once.
    """
    loss: Tensor = _Apply.apply(x_t, formula, quality)
    return loss


def refuse_second_derivative() -> None:
    """
    Raise an error in a backward pass that is to be differentiated.

    The result of such a pass does not depend on its input in a way that autograd can use.

    Raises:
        RuntimeError: the backward pass runs with `create_graph=True`.
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
