"""How the runs trained: curves with the spread of the seeds, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...run_folder import GRADIENT_NORM_KEY
from ..runs.run_folder import RunFolder
from .scores import Spread, spread

LOSS_PREFIXES = ("total_loss", "loss_")
AP_KEY = "bbox/AP"


@dataclass(frozen=True)
class Curve:
    """
    One logged quantity of one arm.

    Attributes:
        iterations: (T,) at which at least one run has a finite value.
        mean: (T,) over the runs that have one there.
        low, high: (T,) the smallest and largest of these.
        runs: (T,) how many these are; fewer than before where a run has ended early.
    """

    iterations: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runs: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """
    Attributes:
        iteration_s: median seconds of an iteration.
        peak_memory_mib: GPU memory where there is a GPU, else the largest resident set.
        training_s: iterations times seconds of an iteration, evaluation not included.
    """

    iteration_s: Spread
    peak_memory_mib: Spread
    training_s: Spread


def curves(folders: Iterable[RunFolder]) -> dict[str, Curve]:
    """
    Of every loss, of AP and of the gradient norm, by its key in `metrics.json`; all runs that wrote
    something are in them, those that failed too.
    """
    series: dict[str, dict[int, list[float]]] = {}
    for folder in folders:
        for line in folder.metrics:
            for key, value in line.items():
                if _is_drawn(key) and isinstance(value, int | float) and math.isfinite(value):
                    series.setdefault(key, {}).setdefault(line["iteration"], []).append(value)
    return {key: _curve(series[key]) for key in sorted(series, key=_curve_order)}


def cost(folders: list[RunFolder]) -> Cost:
    """Of the runs that are done."""
    return Cost(
        spread(folders, lambda folder: folder.finished.iteration_s),
        spread(folders, lambda folder: folder.finished.peak_memory_mib),
        spread(folders, lambda folder: folder.finished.iteration_s * folder.finished.iterations),
    )


def _is_drawn(key: str) -> bool:
    return key.startswith(LOSS_PREFIXES) or key in (AP_KEY, GRADIENT_NORM_KEY)


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
