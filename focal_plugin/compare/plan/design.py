"""Design of the seeds of a comparison: how many there are, and when the results are judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EFFECT = 2.0
"""Difference in AP, percent, that planned looks are to find unless the spec says otherwise."""
POWER = 0.8
FEWEST_SEEDS = 4
"""Number of seeds below which no arm gets a verdict."""


@dataclass(frozen=True)
class Design:
    """
    Numbers of seeds after which the results of a comparison are judged.

    Attributes:
        looks: numbers of seeds, increasing; one number for a fixed number of seeds.
        effect: difference in AP, percent, that the comparison is to find. At a look, arms stop that
            cannot reach it any more. None with a fixed number of seeds.
        power: probability of finding ``effect``.
    """

    looks: tuple[int, ...]
    effect: float | None = None
    power: float = POWER

    @property
    def last(self) -> int:
        """Number of seeds at the last look."""
        return self.looks[-1]

    @property
    def is_sequential(self) -> bool:
        """True if there are several looks."""
        return len(self.looks) > 1


@dataclass(frozen=True)
class LooksToPlan:
    """
    Request of a spec to plan the looks.

    Attributes:
        effect: difference in AP, percent, to find.
        power: probability of finding it.
        std: standard deviation of the differences between seeds, AP in percent; None: that of the
            pilots.
        pilots: folders of finished comparisons; (): the earlier ones of the same base config.
    """

    effect: float = EFFECT
    power: float = POWER
    std: float | None = None
    pilots: tuple[Path, ...] = ()
