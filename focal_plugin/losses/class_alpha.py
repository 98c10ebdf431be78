"""
One alpha for each class: given as numbers, or computed from the number of objects of each class.

Shape shorthand:
    K: number of classes
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..checks import IllegalOptionError, PerClass, check_option, check_per_class
from .one_vs_rest import check_alpha

AUTO = "auto"
"""Value of `CLASS_ALPHA` that asks for alphas from the objects of the training set."""

ALPHA = 0.25
"""Default of alpha in the losses that have one for each class."""

DIGITS = 6
"""Digits after the point of an alpha that is computed, because a config file shows it."""


def check_class_alpha(class_alpha: PerClass) -> Tensor:
    """
    Return the same numbers as float32, each in [0, 1].

    Raises:
        IllegalOptionError: a number is outside [0, 1], or there is not one for each class.
    """
    return torch.tensor(check_per_class("class_alpha", class_alpha, low=0, high=1))


def check_class_alpha_or_auto(class_alpha: PerClass | str) -> Tensor | None:
    """Return the numbers like :func:`check_class_alpha`, or None for :data:`AUTO`."""
    is_auto = isinstance(class_alpha, str) and class_alpha == AUTO
    return None if is_auto else check_class_alpha(class_alpha)  # type: ignore[arg-type]


def require_numbers(class_alpha: Tensor | None, *, key: str) -> Tensor:
    """
    Return the alphas of a loss that is called.

    Args:
        key: config key of the alphas.

    Raises:
        IllegalOptionError: they are :data:`AUTO`, and nobody has counted the objects.
    """
    if class_alpha is None:
        raise IllegalOptionError(
            "class_alpha",
            f"({key}) must be a list of numbers when the loss is computed, got auto, which only "
            "train_net.py replaces, by the objects of the training set",
        )
    return class_alpha


def class_alpha_of_counts(
    samples_per_class: PerClass,
    *,
    alpha: float | None = ALPHA,
    power: float = 0.5,
    with_background: bool = False,
) -> list[float]:
    """
    Compute one alpha for each class from its number of objects.

        w_c = s * (N / n_c)^power,  alpha_c = alpha * w_c / (alpha * w_c + 1 - alpha)

    Here n_c is the number of objects of class c and N that of all classes. The factor s makes the
    mean of the w_c 1. A weight of 1 keeps ``alpha``. The weight multiplies the odds of alpha, which
    are the weight of a positive over that of a negative, so every alpha_c is in [0, 1]. A class
    without objects has no positives to weigh: its weight is 1, and it has no part in the mean.

    Args:
        samples_per_class: K numbers >= 0, the objects of each class in the training set.
        alpha: in [0, 1]. None (or -1) counts as 0.5, the same weight for both.
        power: >= 0. 0 gives each class the same alpha, 1 inverse frequencies.
        with_background: append 1 - alpha, the alpha of the background of a softmax loss.

    Returns:
        K numbers, or K+1, of six digits after the point.

    Raises:
        IllegalOptionError: an option is outside its legal range.
    """
    counts = check_per_class("samples_per_class", samples_per_class, low=0)
    number = check_alpha(alpha)
    base = 0.5 if number is None else number
    weights = _weights(counts, check_option("class_alpha_power", power, low=0))
    alphas = [base * w / (base * w + 1 - base) for w in weights]
    return [round(x, DIGITS) for x in [*alphas, *([1 - base] if with_background else [])]]


def _weights(counts: list[float], power: float) -> list[float]:
    """Return the weight of each class; logarithms, because a power may overflow."""
    logs = {k: -power * math.log(n) for k, n in enumerate(counts) if n > 0}
    highest = max(logs.values(), default=0.0)
    relative = {k: math.exp(x - highest) for k, x in logs.items()}
    mean = sum(relative.values()) / max(len(relative), 1)
    return [relative[k] / mean if k in relative else 1.0 for k in range(len(counts))]
