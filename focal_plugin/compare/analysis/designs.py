"""Designs of a comparison: what a number of seeds, or planned looks, find and cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..plan.design import FEWEST_SEEDS, POWER, Design
from .power import recommend_seeds
from .procedure import judge
from .statistics import ALPHA

TRIALS = 2000
FIRST_SHARE = 0.32
"""Share of the seeds at the first look, enough for an arm without an effect to stop there."""
LOOKS = 5
MOST_EXTRA = 1.6
"""Planned looks take at most this many times the seeds of a fixed number with the same power."""

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Simulated:
    """
    Outcome of a simulated design.

    Attributes:
        found: (arms,) share of the simulated comparisons that call the arm different.
        any_found: share of them that call any arm different.
        runs: mean number of runs, with those of the reference.
    """

    found: tuple[float, ...]
    any_found: float
    runs: float


def simulate(
    design: Design,
    effects: Sequence[float],
    std: float,
    *,
    trials: int = TRIALS,
    noise: Noise | None = None,
    futility: bool = True,
    seed: int = 0,
) -> Simulated:
    """
    Judge simulated comparisons by the procedure of the verdicts.

    Args:
        effects: true difference of each arm to the reference, AP in percent.
        std: standard deviation of the differences between seeds. Arms and reference vary equally
            and independently, each with std / sqrt(2).
        trials: number of simulated comparisons.
        noise: (generator, (trials, 1 + arms, seeds)) -> noise of mean 0 and variance 1; the first
            row is the reference. NaN stands for a failed run. Default: normal.
        futility: see :func:`.procedure.judge`.
        seed: of the random numbers.
    """
    generator = np.random.default_rng(seed)
    shape = (trials, 1 + len(effects), design.last)
    values = generator.standard_normal(shape) if noise is None else noise(generator, shape)
    values = values * std / np.sqrt(2)
    differences = values[:, 1:] - values[:, :1] + np.asarray(effects, float)[None, :, None]
    outcome = judge(differences, design, futility=futility)
    seeds = np.array(design.looks)[outcome.look]
    found = outcome.p <= ALPHA
    return Simulated(
        found=tuple(found.mean(axis=0).tolist()),
        any_found=float(found.any(axis=1).mean()),
        runs=float((seeds.sum(axis=1) + seeds.max(axis=1)).mean()),
    )


def plan_looks(std: float, effect: float, comparisons: int, power: float = POWER) -> Design:
    """
    Return the looks that find an effect with a power, and few seeds on average.

    The looks are evenly spaced. The last one is the smallest at which the simulated power is
    reached. If so few seeds are needed that a look in between saves nothing, there is one look.

    Args:
        std: standard deviation of the differences between seeds, AP in percent, > 0.
        effect: difference to find, AP in percent, > 0.
        comparisons: number of arms that are compared with the reference, >= 1.
        power: probability of finding the effect, in (0, 1).

    Raises:
        ValueError: an argument is outside its range, or too many seeds would be necessary.
    """
    if not std > 0 or not effect > 0:
        raise ValueError(f"expected std > 0 and effect > 0, got {std} and {effect}")
    fixed = recommend_seeds(std, effect, power, comparisons).seeds
    if fixed is None:
        raise ValueError(
            f"no practical number of seeds finds {effect:g} AP at a standard deviation of {std:.2g}"
        )
    effects = [effect, *[0.0] * (comparisons - 1)]
    last = fixed
    while last <= MOST_EXTRA * fixed:
        design = Design(_spaced(last), effect, power)
        if not design.is_sequential or simulate(design, effects, std).found[0] >= power:
            return design
        last += max(1, last // 20)
    return Design((fixed,), effect, power)


def _spaced(last: int) -> tuple[int, ...]:
    """Return evenly spaced numbers of seeds up to the last one."""
    first = max(FEWEST_SEEDS, round(FIRST_SHARE * last))
    count = min(LOOKS, 1 + (last - first) // 2)
    counts = np.linspace(first, last, max(1, count)).round().astype(int)
    return tuple(dict.fromkeys(counts.tolist()))
