"""Runs whose time says that their machine was busy with something else."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from ..runs.run_folder import RunFolder

SLOW = 1.3
"""Seconds per iteration, relative to the median of the arm, above which a run is named."""


@dataclass(frozen=True)
class SlowRun:
    """
    Run that took longer than the others of its arm.

    Attributes:
        ratio: its seconds per iteration, relative to the median of its arm.
    """

    name: str
    ratio: float


@dataclass(frozen=True)
class Load:
    """
    Load of the machines as the runs began; a load of one is one busy processor.

    Attributes:
        recorded: number of runs that recorded it.
        busy: number of these that found as many busy processors as the machine has, or more.
        largest: the largest load per processor.
    """

    recorded: int
    busy: int
    largest: float


def slow_runs(folders: Iterable[RunFolder]) -> tuple[SlowRun, ...]:
    """Return the runs of one arm above :data:`SLOW` times the median of at least three."""
    times = {f.run.name: f.finished.iteration_s for f in folders if f.result is not None}
    if len(times) < 3:
        return ()
    median = statistics.median(times.values())
    found = (SlowRun(name, time / median) for name, time in times.items() if median > 0)
    return tuple(run for run in found if run.ratio > SLOW)


def load(folders: Iterable[RunFolder]) -> Load | None:
    """Return the load as the runs began; None if no run recorded it."""
    environments = [f.environment for f in folders if f.environment is not None]
    loads = [
        e.load_average / e.processors
        for e in environments
        if e.load_average is not None and e.processors
    ]
    if not loads:
        return None
    return Load(len(loads), sum(each >= 1 for each in loads), max(loads))
