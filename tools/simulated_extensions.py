"""
Simulated error rates of seeds that are added after a look at the results.

`calibrate_verdicts.py --extensions` writes the table of docs/statistics.md. The differences between
seeds are normal, in units of their standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special
from tabulate import tabulate

from focal_plugin.compare.analysis.anytime import anytime_p
from focal_plugin.compare.analysis.power import recommend_seeds
from focal_plugin.compare.analysis.statistics import ALPHA

EXTENSIONS = {"6, then 34": (6, 34), "each from 4 to 20": tuple(range(4, 21))}
"""Name -> numbers of seeds at which somebody looks."""
LONGEST = 60
POWER = 0.8
ANYTIME_TRIALS = 2000


def false_alarms(looks: Sequence[int], trials: int, seed: int = 0) -> float:
    """Return the share of comparisons of equal arms with p <= .05 at any look."""
    values = np.random.default_rng(seed).standard_normal((trials, looks[-1]))
    found = np.zeros(trials, dtype=bool)
    for n in looks:
        error = values[:, :n].std(axis=1, ddof=1) / np.sqrt(n)
        t = np.abs(values[:, :n].mean(axis=1)) / error
        found |= 2 * special.stdtr(n - 1, -t) <= ALPHA
    return float(found.mean())


def anytime_alarms(seeds: int, trials: int, seed: int = 0) -> float:
    """Return the share of comparisons of equal arms whose anytime-valid p is ever <= .05."""
    values = np.random.default_rng(seed).standard_normal((trials, seeds))
    return float(np.mean([anytime_p(row) <= ALPHA for row in values]))


def anytime_seeds(effect: float, trials: int, seed: int = 0) -> int:
    """
    Return the number of seeds after which the anytime-valid p finds the effect in 8 of 10.

    Args:
        effect: mean difference, in standard deviations of the differences.
    """
    values = effect + np.random.default_rng(seed).standard_normal((trials, LONGEST))
    for n in range(2, LONGEST + 1):
        if np.mean([anytime_p(row[:n]) <= ALPHA for row in values]) >= POWER:
            return n
    raise ValueError(f"{LONGEST} seeds are too few for an effect of {effect}")


def extension_table(trials: int, seed: int = 0) -> str:
    """Return the Markdown table of the error rates, and a sentence on the anytime-valid p."""
    rows = [
        [name, f"{100 * false_alarms(looks, trials, seed):.1f}%"]
        for name, looks in EXTENSIONS.items()
    ]
    rows.append(
        [
            f"each up to {LONGEST}, anytime-valid p",
            f"{100 * anytime_alarms(LONGEST, ANYTIME_TRIALS, seed):.1f}%",
        ]
    )
    table = tabulate(
        rows, ["looks at seeds", "false differences"], tablefmt="github", disable_numparse=True
    )
    planned = recommend_seeds(1.0, 1.0, power=POWER).seeds
    needed = anytime_seeds(1.0, ANYTIME_TRIALS, seed)
    return (
        f"{table}\n\nA difference of one standard deviation takes {needed} seeds by the "
        f"anytime-valid p, and {planned} by a planned test (in 8 of 10 comparisons)."
    )
