"""Check that the slope of a formula, and its kernel, compute what its value says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import dense_loss_cpp
from .dense_loss_block import Block, Evaluate, Terms
from .extension import has_extension
from .formula import Formula, Point

_checked: set[Any] = set()


class FormulaError(ValueError):
    """Error for a formula whose parts compute different losses."""


def check_formula(
    formula: Formula, evaluate: Evaluate | None = None, device: torch.device | str = "cpu"
) -> None:
    """
    Compare a formula at sample points with the derivative of its value, and with its kernel.

    The derivative is that of autograd. So a part of the value that is detached counts as a
    constant, and a slope that differentiates it is an error. A class with the same parameters is
    compared once; of a parameter of all classes, (K,), the number of the first class.

    Args:
        evaluate: implementation whose kernel is compared; None: the one in C++, if it is available.
        device: device of that implementation.

    Raises:
        FormulaError: two numbers differ; the message has both.
    """
    fields = vars(formula).items()
    numbers = tuple(repr(x) for _, x in fields if not isinstance(x, Tensor))
    key = (type(formula), numbers, evaluate)
    if key in _checked:
        return
    tensors = [x for _, x in fields if isinstance(x, Tensor)]
    if any(x.is_meta or not len(x) for x in tensors):
        return
    with torch.inference_mode(False), torch.enable_grad():
        _compare(formula, evaluate, tensors[0].device if tensors else device)
    _checked.add(key)


def _compare(formula: Formula, evaluate: Evaluate | None, device: torch.device | str) -> None:
    formula = formula.with_parameters(lambda x: x[:1])
    # No kink of a formula with round parameters is at one of these points
    x_t = torch.linspace(-4.13, 3.97, 19, dtype=torch.float64, device=device).requires_grad_()
    quality = torch.linspace(0.07, 0.93, 19, dtype=torch.float64, device=device)
    at = Point(x_t, quality)
    value = formula.value(at)
    derivative = torch.autograd.grad(value.sum(), x_t)[0] if value.requires_grad else 0 * x_t
    slope = formula.slope(at)
    _refuse_difference(formula, x_t, "slope", slope, "the derivative of value", derivative, 1e-5)
    if evaluate is None and has_extension():
        evaluate = dense_loss_cpp.evaluate
    if formula.kernel is not None and evaluate is not None:
        _compare_kernel(formula, evaluate, at, value, slope)


def _compare_kernel(
    formula: Formula, evaluate: Evaluate, at: Point, value: Tensor, slope: Tensor
) -> None:
    """Compare the kernel for positives, and for negatives unless it requires a quality."""
    kernel = f"kernel {formula.kernel!r}"
    x_t, device = at.x.detach(), at.x.device
    quality = at.quality.float().view(1, -1) if formula.wants_quality else None
    for sign in (1,) if formula.wants_quality else (1, -1):
        block = Block(
            logits=(sign * x_t).float().view(1, 1, -1),
            labels=torch.full((1, len(x_t)), int(sign < 0), dtype=torch.int32, device=device),
            quality=quality,
        )
        terms = Terms(formula, _CrossEntropy() if formula.wants_quality else formula)
        try:
            loss, gradient = evaluate(block, terms, torch.ones((), device=device))
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise FormulaError(f"{type(formula).__name__}: {kernel} fails: {reason}") from error
        assert gradient is not None
        of_side = f"{kernel} ({'positives' if sign > 0 else 'negatives'})"
        _refuse_difference(formula, x_t, of_side, loss, "value", value, 1e-3)
        name = f"the slope of {of_side}"
        _refuse_difference(formula, x_t, name, sign * gradient, "slope", slope, 1e-3)


class _CrossEntropy(Formula):
    """Formula of the negatives beside a formula for positives only."""

    kernel = "cross_entropy"

    def value(self, at: Point) -> Tensor:
        return at.ce

    def slope(self, at: Point) -> Tensor:
        return -at.q


def _refuse_difference(
    formula: Formula,
    x_t: Tensor,
    name: str,
    ours: Tensor,
    other_name: str,
    other: Tensor,
    tolerance: float,
) -> None:
    """Raise an error that shows the point of the largest difference between two results."""
    ours, other = ours.detach().flatten().double(), other.detach().double().expand_as(x_t)
    excess = (ours - other).abs() - tolerance * (other.abs() + 0.01)
    excess = excess.nan_to_num(nan=torch.inf)  # neither may be a NaN
    worst = int(excess.argmax())
    if excess[worst] > 0:
        raise FormulaError(
            f"{type(formula).__name__}: {name} is {ours[worst]:.5g} at x_t = {x_t[worst]:.4g}, "
            f"but {other_name} is {other[worst]:.5g}"
        )
