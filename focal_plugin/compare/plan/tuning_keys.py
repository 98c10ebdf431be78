"""Keys `learning_rates` and `loss_weights` of a spec: the grid that the trials try."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...names import shown
from .seeds import SeedChoice, read_seeds
from .setting import Grid

TUNING_KEYS = {
    "learning_rates": ("factors", "seeds"),
    "loss_weights": ("factors", "seeds", "key"),
}
"""Key of a spec -> its own keys."""
TRIAL_SEEDS = (101, 102, 103)
"""Seeds of the trials unless the spec gives others."""
FEWEST_TRIAL_SEEDS = 3


def read_grid(sections: Mapping[str, dict[str, Any]], seeds: SeedChoice) -> Grid | None:
    """
    Return the grid of a spec; None without tuning.

    Args:
        sections: those of :data:`TUNING_KEYS` that the spec has, without unknown keys.
        seeds: seeds of the comparison.

    Raises:
        ValueError: a value is malformed, the trial seeds are fewer than three, differ between both
            keys or contain a seed of the comparison, or the comparison has planned looks.
    """
    if not sections:
        return None
    first = next(iter(sections))
    if seeds.has_looks:
        raise ValueError(f"{first}: tuning requires a fixed number of seeds, without looks")
    factors = {place: _factors(section, place) for place, section in sections.items()}
    return Grid(
        lr_factors=factors.get("learning_rates", ()),
        weight_factors=factors.get("loss_weights", ()),
        seeds=_trial_seeds(sections, seeds),
        weight_key=_key(sections.get("loss_weights", {})),
    )


def is_factor(value: Any) -> bool:
    """Return True for a finite number > 0."""
    return type(value) in {int, float} and 0 < value < math.inf


def _factors(section: dict[str, Any], place: str) -> tuple[float, ...]:
    if "factors" not in section:
        raise ValueError(f"{place} must have factors, got {shown(section)}")
    factors = section["factors"]
    if not isinstance(factors, list) or not factors or not all(map(is_factor, factors)):
        raise ValueError(f"{place}: factors must be numbers > 0, got {shown(factors)}")
    if len(set(factors)) < len(factors):
        raise ValueError(f"{place}: duplicate factor in {factors}")
    return tuple(map(float, factors))


def _trial_seeds(sections: Mapping[str, dict[str, Any]], seeds: SeedChoice) -> tuple[int, ...]:
    given = {
        place: read_seeds(section["seeds"], f"{place}: seeds")
        for place, section in sections.items()
        if "seeds" in section
    }
    if len({frozenset(of_key) for of_key in given.values()}) > 1:
        raise ValueError(
            f"{' and '.join(given)} must have the same seeds, because each trial tries a pair of "
            "factors; give the seeds once"
        )
    place, trial_seeds = next(iter(given.items()), (next(iter(sections)), TRIAL_SEEDS))
    if len(trial_seeds) < FEWEST_TRIAL_SEEDS:
        raise ValueError(
            f"{place}: seeds must be at least {FEWEST_TRIAL_SEEDS} trial seeds, got "
            f"{list(trial_seeds)}: a choice by fewer follows the noise between seeds"
        )
    both = set(trial_seeds) & set(seeds.seeds)
    if both:
        raise ValueError(
            f"{place}: seed {min(both)} is one of seeds: a setting that is chosen on the compared "
            "runs makes its arm look better than it is"
        )
    return trial_seeds


def _key(section: dict[str, Any]) -> str:
    if "key" not in section:
        return ""
    key = section["key"]
    if not isinstance(key, str) or "WEIGHT" not in key.rpartition(".")[2]:
        raise ValueError(f"loss_weights: key must be the config key of a weight, got {shown(key)}")
    return key
