"""Training curves with the spread over the seeds, and the cost of the runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...run_folder import GRADIENT_NORM_KEY, VALIDATION_PREFIX
from ..runs.run_folder import RunFolder
from .scores import Spread, spread
from .statistics import is_finite_number

LOSS_PREFIXES = ("total_loss", "loss_")
AP_KEY = "bbox/AP"


@dataclass(frozen=True)
class Curve:
    """
    Curve of one logged quantity of one arm.

    Attributes:
        iterations: (T,) iterations at which at least one run has a finite value.
        mean: (T,) mean over the runs with a finite value.
        low, high: (T,) smallest and largest of these values.
        runs: (T,) number of these runs; it drops when a run ends early.
    """

    iterations: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runs: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """
    Cost of the runs of an arm.

    Attributes:
        iteration_s: median seconds per iteration.
        peak_memory_mib: peak GPU memory; without a GPU, the largest resident set.
        training_s: iterations times seconds per iteration, without evaluation.
    """

    iteration_s: Spread
    peak_memory_mib: Spread
    training_s: Spread


def curves(folders: Iterable[RunFolder]) -> dict[str, Curve]:
    """
    Return the curves of all losses, of AP and of the gradient norm, by key in `metrics.json`.

    The losses are those on training images and those on fixed test images.

    All runs with metrics count, including failed ones.
    """
    series: dict[str, dict[int, list[float]]] = {}
    for folder in folders:
        for line in folder.metrics:
            for key, value in line.items():
                drawn = key.startswith((*LOSS_PREFIXES, VALIDATION_PREFIX))
                drawn = drawn or key in (AP_KEY, GRADIENT_NORM_KEY)
                if drawn and is_finite_number(value):
                    series.setdefault(key, {}).setdefault(line["iteration"], []).append(value)
    return {key: _curve(series[key]) for key in sorted(series, key=_curve_order)}


def cost(folders: list[RunFolder]) -> Cost:
    """Return the cost of the runs that are done."""
    return Cost(
        spread(folders, lambda folder: folder.finished.iteration_s),
        spread(folders, lambda folder: folder.finished.peak_memory_mib),
        spread(folders, lambda folder: folder.finished.iteration_s * folder.finished.iterations),
    )


def _curve_order(key: str) -> tuple[int, str]:
    first = {"total_loss": 0, AP_KEY: 2, GRADIENT_NORM_KEY: 3}
    return first.get(key, 1), key


def _curve(values: dict[int, list[float]]) -> Curve:
    iterations = sorted(values)
    return Curve(
        tuple(iterations),
        tuple(float(np.mean(values[i])) for i in iterations),
        tuple(float(min(values[i])) for i in iterations),
        tuple(float(max(values[i])) for i in iterations),
        tuple(len(values[i]) for i in iterations),
    )
