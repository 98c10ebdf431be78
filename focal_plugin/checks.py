"""Checks of a component's options and of its labels."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from typing import Any, TypeVar

import torch
from torch import Tensor

_Choice = TypeVar("_Choice")


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
    value: float,
    *,
    low: float,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """
    Return ``value`` if it is a finite number between ``low`` and ``high``.

    Both bounds are legal values unless they are open.

    Raises:
        IllegalOptionError: ``value`` is out of range.
    """
    check_number(option, value)
    above = value > low if open_low else value >= low
    below = value < high if open_high or high == math.inf else value <= high
    if not (above and below):
        bound = f"{'>' if open_low else '>='} {low:g}"
        if high != math.inf:
            bound += f" and {'<' if open_high else '<='} {high:g}"
        raise IllegalOptionError(option, f"must be {bound}, got {value}")
    return value


def check_number(option: str, value: float) -> float:
    """
    Return ``value`` if it is a real number.

    Raises:
        IllegalOptionError: it has another type, such as a string where a key has no type.
    """
    if not isinstance(value, numbers.Real):
        raise IllegalOptionError(option, f"must be a number, got {value!r}")
    return value


def check_finite(option: str, value: float) -> float:
    """
    Return ``value`` if it is neither infinite nor NaN.

    Raises:
        IllegalOptionError: it is infinite or NaN.
    """
    if not math.isfinite(value):
        raise IllegalOptionError(option, f"must be finite, got {value}")
    return value


def check_count(option: str, value: int, *, low: int) -> int:
    """
    Return ``value`` if it is an integer >= ``low``.

    Raises:
        IllegalOptionError: it is not.
    """
    if not isinstance(value, numbers.Integral) or value < low:
        raise IllegalOptionError(option, f"must be an integer >= {low}, got {value!r}")
    return value


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


def check_labels(labels: Tensor, *, num_classes: int | None) -> None:
    """
    Raise an error if labels are not integers in -1..num_classes.

    The range is checked on the CPU only, because the check would stall a GPU.

    Args:
        labels: any shape.
        num_classes: K, the label of the background. None if it is unknown.

    Raises:
        ValueError: the labels are not integers, or one is outside -1..num_classes.
    """
    if labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.device.type == "cpu" and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < -1 or (num_classes is not None and high > num_classes):
            legal = "-1 and up" if num_classes is None else f"-1..{num_classes} (K, background)"
            raise ValueError(f"labels must be in {legal}, got {low}..{high}")
