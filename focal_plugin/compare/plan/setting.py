"""Settings of an arm that trials choose from: its learning rate and the weight of a loss."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """
    Learning rate and loss weight of a run, relative to those in the config of its arm.

    Attributes:
        lr_factor: factor of `SOLVER.BASE_LR`, > 0.
        weight_factor: factor of the constant weight of a loss, > 0.
    """

    lr_factor: float = 1.0
    weight_factor: float = 1.0

    @property
    def name(self) -> str:
        """Factors other than 1, such as "lr x 2, weight x 4"; "" if both are 1."""
        factors = {"lr": self.lr_factor, "weight": self.weight_factor}
        return ", ".join(f"{name} x {factor:g}" for name, factor in factors.items() if factor != 1)

    @property
    def distance(self) -> float:
        """Distance to the setting of the config: Euclidean, of the logarithms of the factors."""
        return math.hypot(math.log(self.lr_factor), math.log(self.weight_factor))


EQUAL = Setting()
"""Setting of the config of an arm."""


@dataclass(frozen=True)
class Grid:
    """
    Settings that the trials of each arm try, and their seeds.

    Attributes:
        lr_factors: factors of the learning rate, each > 0; () if it is not tuned.
        weight_factors: factors of the loss weight, each > 0; () if it is not tuned.
        seeds: seeds of the trials, which no other run has.
        weight_key: config key of the weight; "" for that of the detector's classification loss.
    """

    lr_factors: tuple[float, ...] = ()
    weight_factors: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    weight_key: str = ""

    @property
    def settings(self) -> tuple[Setting, ...]:
        """All pairs of factors, the learning rates of the first loss weight first."""
        return tuple(
            Setting(lr_factor, weight_factor)
            for weight_factor in self.weight_factors or (1.0,)
            for lr_factor in self.lr_factors or (1.0,)
        )


@dataclass(frozen=True)
class Origin:
    """
    Values in the config of an arm that a setting multiplies.

    Attributes:
        base_lr: `SOLVER.BASE_LR`.
        weight_key: config key of the loss weight; "" if it is not tuned.
        weight: its value.
    """

    base_lr: float
    weight_key: str = ""
    weight: float = 1.0

    def options(self, setting: Setting) -> tuple[str, ...]:
        """Return KEY, VALUE, ... of a setting, without the keys that keep their value."""
        options: tuple[str, ...] = ()
        if setting.lr_factor != 1.0:
            options += ("SOLVER.BASE_LR", repr(self.base_lr * setting.lr_factor))
        if setting.weight_factor != 1.0:
            options += (self.weight_key, repr(self.weight * setting.weight_factor))
        return options
