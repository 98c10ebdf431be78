"""
Simulated error rates, power and cost of the designs that `focal-compare` offers.

`calibrate_verdicts.py --designs` writes the tables. The simulations call the procedure of the
verdicts itself (`focal_plugin.compare.analysis.procedure`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from focal_plugin.compare.analysis.designs import Noise, Simulated, plan_looks, simulate
from focal_plugin.compare.analysis.power import recommend_seeds
from focal_plugin.compare.plan.design import Design

STD = 2.0
"""Standard deviation of the differences between seeds, AP in percent."""
CRASHES = 0.03
LOWEST_AP = 20.0
SETTINGS = ((1, 2.0), (3, 2.0), (7, 2.0), (1, 1.0), (7, 1.0))
"""(arms beside the reference, difference to find in AP)."""


@dataclass(frozen=True)
class Row:
    """
    Simulations of one design.

    Attributes:
        alarms: noise -> share of comparisons of equal arms with a false difference.
        power: noise -> share in which the only effective arm is found.
        runs: mean number of runs with one effective arm, with arms from 0 to 3 times the effect,
            and with equal arms.
    """

    arms: int
    effect: float
    design: Design
    alarms: dict[str, float]
    power: dict[str, float]
    runs: tuple[float, float, float]


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return normal noise."""
    return generator.standard_normal(shape)


def heavy_tails(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return noise of a t distribution with 3 degrees of freedom."""
    return generator.standard_t(3, shape) / math.sqrt(3)


def skewed(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return noise of a gamma distribution of shape 2, whose skewness is 1.4."""
    return (generator.gamma(2, 1, shape) - 2) / math.sqrt(2)


def unequal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return normal noise whose standard deviation differs by arm, from 1 to 4 times."""
    spreads = np.geomspace(0.5, 2.0, shape[1])
    return generator.standard_normal(shape) * (spreads / np.sqrt(np.mean(spreads**2)))[:, None]


def crashes(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return normal noise in which 3% of the runs fail."""
    values = generator.standard_normal(shape)
    values[generator.random(shape) < CRASHES] = np.nan
    return values


def real_noise(results: Path) -> tuple[Noise, int]:
    """
    Return noise that is drawn from real runs, and their number.

    The runs are those of `docs/catalogue.json`: every arm with at least three seeds and a mean AP
    above 20. A value is the deviation of a run from the mean of its arm, corrected for the seed
    that the mean takes, and divided by the standard deviation of all deviations.
    """
    deviations: list[float] = []
    for comparison in json.loads(results.read_text(encoding="utf-8")).values():
        by_arm: dict[str, list[float]] = {}
        for run in comparison["results"]:
            if run["ap"]["AP"] is not None:
                by_arm.setdefault(run["arm"], []).append(run["ap"]["AP"])
        for values in by_arm.values():
            n, mean = len(values), float(np.mean(values))
            if n >= 3 and mean > LOWEST_AP:
                deviations += [(value - mean) * math.sqrt(n / (n - 1)) for value in values]
    pool = np.array(deviations) / np.sqrt(np.mean(np.square(deviations)))
    return (lambda generator, shape: generator.choice(pool, shape)), len(pool)


NOISES: dict[str, Noise] = {
    "normal": normal,
    "t, 3 df": heavy_tails,
    "skewed": skewed,
    "unequal": unequal,
    "crashes": crashes,
}


def simulate_designs(noises: dict[str, Noise], trials: int, seed: int = 0) -> list[Row]:
    """Return the simulations of a fixed number of seeds and of planned looks."""
    rows = []
    for arms, effect in SETTINGS:
        fixed = recommend_seeds(STD, effect, comparisons=arms).seeds
        assert fixed is not None  # the settings are practical
        for design in (Design((fixed,), effect), plan_looks(STD, effect, arms)):
            rows.append(_row(arms, effect, design, noises, trials, seed))
    return rows


def _row(
    arms: int, effect: float, design: Design, noises: dict[str, Noise], trials: int, seed: int
) -> Row:
    def run(effects: Sequence[float], noise: Noise, *, futility: bool = True) -> Simulated:
        return simulate(
            design, effects, STD, trials=trials, noise=noise, futility=futility, seed=seed
        )

    equal, one = [0.0] * arms, [effect, *[0.0] * (arms - 1)]
    several = np.linspace(0, 3 * effect, arms).tolist() if arms > 1 else equal
    return Row(
        arms=arms,
        effect=effect,
        design=design,
        alarms={n: run(equal, noise, futility=False).any_found for n, noise in noises.items()},
        power={n: run(one, noise).found[0] for n, noise in noises.items()},
        runs=(run(one, normal).runs, run(several, normal).runs, run(equal, normal).runs),
    )


def design_tables(rows: Sequence[Row], trials: int, real: int) -> str:
    """Return the Markdown tables of cost, false differences and power."""
    error = 100 * math.sqrt(0.05 * 0.95 / trials)
    cost = _table(
        rows,
        ("runs, one arm differs", "runs, arms at 0 to 3 x", "runs, equal arms"),
        lambda row: [f"{runs:.0f}" for runs in row.runs],
    )
    noises = tuple(rows[0].alarms)
    alarms = _table(rows, noises, lambda row: [f"{100 * row.alarms[n]:.1f}" for n in noises])
    power = _table(rows, noises, lambda row: [f"{100 * row.power[n]:.0f}" for n in noises])
    return (
        f"Mean number of runs, with those of the reference:\n\n{cost}\n\n"
        f"Comparisons of equal arms with any false difference, %. 5 are allowed; {trials:,} "
        f"comparisons leave +- {error:.1f}. Arms stop only if they differ. The last column draws "
        f"from {real} real runs:\n\n{alarms}\n\n"
        f"Comparisons that find the one arm that differs, %:\n\n{power}"
    )


def _table(rows: Sequence[Row], names: Sequence[str], cells: Callable[[Row], list[str]]) -> str:
    body = [
        [f"{row.arms}", f"{row.effect:g} AP", ", ".join(map(str, row.design.looks)), *cells(row)]
        for row in rows
    ]
    header = ["arms", "difference", "seeds at the looks", *names]
    align = ["right", "right", "left", *["right"] * len(names)]
    return tabulate(body, header, tablefmt="github", disable_numparse=True, colalign=align)
