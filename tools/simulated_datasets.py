"""
Measure how often equal arms are called different over several datasets, and over folds.

    python tools/simulated_datasets.py

It prints the two tables of docs/statistics.md. Datasets: paired differences without a mean, from
four models of noise. Folds: least squares on two halves of the features of one linear model, which
are equally good by symmetry, in a cross-validation of data drawn anew each time.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
from tabulate import tabulate

from focal_plugin.compare.analysis.over_datasets import mean_over_datasets, mean_over_folds
from focal_plugin.compare.analysis.statistics import ALPHA, paired_difference

FOLDS = (4, 5, 10)
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]

PROBLEMS = {"large": (200, 10), "small": (40, 20)}
"""Problem -> examples and features. A small one makes the learners depend on their training."""


def unequal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return normal noise whose spread differs tenfold between the datasets."""
    return rng.normal(size=shape) * np.geomspace(0.3, 3.0, shape[0])[:, None]


NOISE: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "t, 3 degrees": lambda rng, shape: rng.standard_t(3, size=shape),
    "skewed arm": lambda rng, shape: rng.gamma(1.5, size=shape) - 1.5,
    "unequal datasets": unequal,
}
"""Model -> noise of an arm, (datasets, seeds)."""


def datasets_rate(draw: Draw, datasets: int, seeds: int, comparisons: int) -> float:
    """Return how often the mean over datasets is called different, without a difference."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(comparisons):
        noise = draw(rng, (datasets, seeds))
        arm, reference = noise, draw(rng, (datasets, seeds))
        if draw is NOISE["skewed arm"]:
            reference = 0.3 * reference
        found = mean_over_datasets(
            [
                paired_difference(dict(enumerate(a)), dict(enumerate(b)))
                for a, b in zip(arm, reference, strict=True)
            ]
        )
        hits += found.t_p is not None and found.t_p <= ALPHA
    return hits / comparisons


def folds_rates(
    folds: int, comparisons: int, *, examples: int, features: int
) -> tuple[float, float]:
    """Return how often equal learners are called different: corrected, and by a plain t test."""
    rng = np.random.default_rng(0)
    hits = plain = 0
    half = features // 2
    for _ in range(comparisons):
        x = rng.normal(size=(examples, features))
        y = x.sum(axis=1) + rng.normal(size=examples)
        fold = rng.permutation(examples) % folds
        differences = []
        for i in range(folds):
            train, test = fold != i, fold == i
            scores = []
            for columns in (slice(None, half), slice(half, None)):
                own = x[:, columns]
                weights = np.linalg.lstsq(own[train], y[train], rcond=None)[0]
                scores.append(float(((own[test] @ weights - y[test]) ** 2).mean()))
            differences.append(paired_difference({1: scores[0]}, {1: scores[1]}))
        found = mean_over_folds(differences, 1 / (folds - 1))
        assert found.std is not None
        hits += found.t_p is not None and found.t_p <= ALPHA
        uncorrected = found.with_error(found.std / math.sqrt(folds), folds - 1)
        plain += uncorrected.t_p is not None and uncorrected.t_p <= ALPHA
    return hits / comparisons, plain / comparisons


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=4000, help="default: 4000 per cell")
    count = parser.parse_args().comparisons
    rows = [
        (
            *(datasets, seeds),
            *(
                f"{100 * datasets_rate(draw, datasets, seeds, count):.1f}"
                for draw in NOISE.values()
            ),
        )
        for datasets, seeds in ((2, 2), (2, 4), (3, 2), (3, 4), (5, 2), (5, 4), (10, 3))
    ]
    print(tabulate(rows, ("datasets", "seeds", *NOISE), "github"), flush=True)
    header = ["folds"]
    columns = []
    for name, (examples, features) in PROBLEMS.items():
        header += [f"{name}: corrected", "plain t test"]
        columns.append([folds_rates(k, count, examples=examples, features=features) for k in FOLDS])
    rows = [
        (folds, *(f"{100 * rate:.1f}" for column in columns for rate in column[i]))
        for i, folds in enumerate(FOLDS)
    ]
    print("\n" + tabulate(rows, header, "github"))


if __name__ == "__main__":
    main()
