"""Seeds of a spec: a number, a list, or planned looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...names import did_you_mean, shown
from .design import EFFECT, POWER, Design, LooksToPlan

LOOK_KEYS = ("looks", "effect", "power", "std", "pilot")
MAX_NUMBER = 2**31 - 1
MAX_RUNS = 10_000
AUTO = "auto"


@dataclass(frozen=True)
class SeedChoice:
    """
    Seeds of a spec.

    Attributes:
        seeds: all of them, in the order of the spec; () until the looks are planned.
        design: the looks; None for one look at all seeds.
        to_plan: how to plan the looks; None if there is nothing to plan.
    """

    seeds: tuple[int, ...]
    design: Design | None = None
    to_plan: LooksToPlan | None = None

    @classmethod
    def of(cls, design: Design) -> SeedChoice:
        """Return the seeds 1, 2, ... of a design."""
        return cls(tuple(range(1, design.last + 1)), design)

    @property
    def has_looks(self) -> bool:
        """True if the results are judged at several looks."""
        return self.design is not None or self.to_plan is not None


def read_seed_choice(value: Any, folder: Path) -> SeedChoice:
    """
    Read the key `seeds` of a spec.

    Args:
        value: a number, a list of seeds, "auto", or a mapping with `looks` (a list of numbers of
            seeds, or "auto"), `effect`, `power`, `std` and `pilot`.
        folder: folder that `pilot` is relative to.

    Raises:
        ValueError: the value is malformed.
        KeyError: a key of the mapping does not exist.
        FileNotFoundError: a pilot does not exist.
    """
    if value == AUTO:
        return SeedChoice((), to_plan=LooksToPlan())
    if not isinstance(value, dict):
        return SeedChoice(read_seeds(value, "seeds"))
    for key in value:
        if key not in LOOK_KEYS:
            hint = did_you_mean(key, LOOK_KEYS) or f"; known: {', '.join(LOOK_KEYS)}"
            raise KeyError(f"no key of seeds is named {shown(key)}{hint}")
    effect = _number(value.get("effect", EFFECT), "effect", math.inf)
    power = _number(value.get("power", POWER), "power", 1.0)
    looks = value.get("looks", AUTO)
    if looks == AUTO:
        std = _number(value["std"], "std", math.inf) if "std" in value else None
        pilots = _pilots(value.get("pilot", []), folder)
        if std is not None and pilots:
            raise ValueError("seeds: std and pilot both give the standard deviation; choose one")
        return SeedChoice((), to_plan=LooksToPlan(effect, power, std, pilots))
    if {"std", "pilot"} & value.keys():
        raise ValueError("seeds: std and pilot plan the looks, so they require looks: auto")
    return SeedChoice.of(Design(_looks(looks), effect, power))


def read_seeds(value: Any, place: str) -> tuple[int, ...]:
    """
    Return the seeds of a number or of a list.

    Raises:
        ValueError: the value is neither, or a seed occurs twice.
    """
    if type(value) is int:
        if value > MAX_RUNS:
            raise ValueError(f"{place} must be at most {MAX_RUNS}, got {shown(value)}")
        return tuple(range(1, integer(value, place, 1) + 1))
    if not isinstance(value, list) or not value:
        raise ValueError(f"{place} must be a list of integers or their number, got {shown(value)}")
    unique = dict.fromkeys(integer(seed, place, 0) for seed in value)
    if len(unique) < len(value):
        raise ValueError(f"{place}: a seed is given twice")
    return tuple(unique)


def integer(value: Any, place: str, least: int) -> int:
    """
    Return an integer of at least ``least``.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not int or value < least:  # excludes True, which is an int
        raise ValueError(f"{place} must be an integer >= {least}, got {shown(value)}")
    if value > MAX_NUMBER:
        raise ValueError(f"{place} must be at most {MAX_NUMBER}, got {shown(value)}")
    return value


def _number(value: Any, key: str, below: float) -> float:
    if type(value) not in {int, float} or not 0 < value < below:
        limits = "> 0" if below == math.inf else f"between 0 and {below:g}"
        raise ValueError(f"seeds: {key} must be a number {limits}, got {shown(value)}")
    return float(value)


def _looks(looks: Any) -> tuple[int, ...]:
    if not isinstance(looks, list) or not looks:
        raise ValueError(f"seeds: looks must be a list of numbers or auto, got {shown(looks)}")
    counts = tuple(integer(look, "seeds: looks", 2) for look in looks)
    if list(counts) != sorted(set(counts)) or counts[-1] > MAX_RUNS:
        raise ValueError(
            f"seeds: looks must increase, to at most {MAX_RUNS} seeds, got {shown(looks)}"
        )
    return counts


def _pilots(value: Any, folder: Path) -> tuple[Path, ...]:
    names: Sequence[Any] = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"seeds: pilot must be a folder or a list of folders, got {shown(value)}")
    pilots = tuple((folder / Path(name).expanduser()).resolve() for name in names)
    for pilot in pilots:
        if not pilot.is_dir():
            raise FileNotFoundError(f"seeds: pilot: no folder {pilot}")
    return pilots
