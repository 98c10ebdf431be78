"""Checks of a component's options and of its labels."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

_Choice = TypeVar("_Choice")

PerClass: TypeAlias = "Sequence[float] | Mapping[int, float] | Tensor | np.ndarray[Any, Any]"
"""One number for each class, by index or by key, see :func:`check_per_class`."""


class IllegalOptionError(ValueError):
    """
    Error for a component's option outside its legal range.

    Attributes:
        option: the name of the argument, e.g. "gamma".
        requirement: the rule and the value that breaks it, e.g. "must be >= 0, got -1.0".
    """

    def __init__(self, option: str, requirement: str) -> None:
        super().__init__(f"{option} {requirement}")
        self.option = option
        self.requirement = requirement


def check_option(
    option: str,
    value: Any,
    *,
    low: float,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """
    Return ``value`` as a float if it is a finite number between ``low`` and ``high``.

    Both bounds are legal values unless they are open.

    Raises:
        IllegalOptionError: ``value`` is out of range, or not a number, see :func:`check_number`.
    """
    number = check_number(option, value)
    above = number > low if open_low else number >= low
    below = number < high if open_high or high == math.inf else number <= high
    if not (above and below):
        bound = f"{'>' if open_low else '>='} {low:g}"
        if high != math.inf:
            bound += f" and {'<' if open_high else '<='} {high:g}"
        raise IllegalOptionError(option, f"must be {bound}, got {value}")
    return number


def check_number(option: str, value: Any) -> float:
    """
    Return ``value`` as a float if it is one real number.

    It may be a number of NumPy, or a tensor or an array without dimensions.

    Raises:
        IllegalOptionError: it is something else, such as a list or a truth value, or it requires a
            gradient, which an option does not get.
    """
    number = _unwrapped(option, value)
    if not isinstance(number, numbers.Real) or isinstance(number, bool):
        raise IllegalOptionError(option, f"must be a number, got {_described(value)}")
    try:
        return float(number)
    except OverflowError:
        raise IllegalOptionError(option, "must be a number that fits a float") from None


def check_finite(option: str, value: Any) -> float:
    """
    Return ``value`` as a float if it is a number and neither infinite nor NaN.

    Raises:
        IllegalOptionError: it is not.
    """
    number = check_number(option, value)
    if not math.isfinite(number):
        raise IllegalOptionError(option, f"must be finite, got {value}")
    return number


def check_count(option: str, value: Any, *, low: int) -> int:
    """
    Return ``value`` as an int if it is an integer >= ``low``.

    Raises:
        IllegalOptionError: it is not.
    """
    number = _unwrapped(option, value)
    is_integer = isinstance(number, numbers.Integral) and not isinstance(number, bool)
    if not (is_integer and number >= low):
        raise IllegalOptionError(option, f"must be an integer >= {low}, got {_described(value)}")
    return int(number)


def check_per_class(
    option: str, values: Any, *, low: float = -math.inf, high: float = math.inf
) -> list[float]:
    """
    Return one number for each class, in the order of the classes.

    Args:
        values: a list or a tuple; a tensor or an array of one dimension; or a mapping, such as a
            `Counter`, from each class in 0..K-1 to its number.
        low, high: legal range of each number, see :func:`check_option`.

    Raises:
        IllegalOptionError: it is something else, or the keys are not 0..K-1.
    """
    if hasattr(values, "keys"):
        by_class = dict(values)
        if by_class.keys() != set(range(len(by_class))):
            raise IllegalOptionError(
                option,
                "must have the key of every class, 0..K-1 as integers and no other, got "
                f"{reprlib.repr(list(by_class))}",
            )
        values = [by_class[k] for k in range(len(by_class))]
    elif len(getattr(values, "shape", ())) == 1:
        _refuse_gradient(option, values)
        values = values.tolist()
    elif not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise IllegalOptionError(
            option, f"must be a list of numbers, one for each class, got {_described(values)}"
        )
    return [check_option(option, value, low=low, high=high) for value in values]


def _unwrapped(option: str, value: Any) -> Any:
    """Return the item of a tensor or an array without dimensions, and any other value as it is."""
    _refuse_gradient(option, value)
    return value.item() if getattr(value, "shape", None) == () else value


def _refuse_gradient(option: str, value: Any) -> None:
    if getattr(value, "requires_grad", False):
        raise IllegalOptionError(option, "must be a constant, got a tensor that requires_grad")


def _described(value: Any) -> str:
    shape = getattr(value, "shape", ())
    if len(shape):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    return reprlib.repr(value)


def check_choice(option: str, value: _Choice, choices: Collection[Any]) -> _Choice:
    """
    Return ``value`` if it is one of ``choices``.

    Raises:
        IllegalOptionError: it is not.
    """
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise IllegalOptionError(option, f"must be one of {listed}, got {value!r}")
    return value


def check_labels(labels: Tensor, *, num_classes: int | None) -> Tensor:
    """
    Return labels if they are integers in -1..num_classes.

    The range is checked on the CPU only, because the check would stall a GPU.

    Args:
        labels: any shape.
        num_classes: K, the label of the background. None if it is unknown.

    Returns:
        the labels, as int64 if they are unsigned: PyTorch cannot compare all unsigned integers.

    Raises:
        ValueError: the labels are not integers, or one is outside -1..num_classes.
    """
    dtype = labels.dtype
    if dtype == torch.bool:
        raise ValueError(
            "labels must be integers, got torch.bool: a label is the class 0..K-1 of the object, "
            "or K for background"
        )
    if dtype.is_floating_point or dtype.is_complex:
        raise ValueError(f"labels must be integers, got {dtype}")
    if labels.device.type == "cpu" and labels.numel():
        low, high = map(int, (labels if dtype.is_signed else labels.double()).aminmax())
        if low < -1 or (num_classes is not None and high > num_classes):
            legal = "-1 and up" if num_classes is None else f"-1..{num_classes} (K, background)"
            raise ValueError(f"labels must be in {legal}, got {low}..{high}")
    return labels if dtype.is_signed else labels.long()
