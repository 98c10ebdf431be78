"""Finished runs of a comparison as plain values, the same for every target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..analysis.summary import summarize
from ..plan.comparison import Comparison
from ..plan.setting import Setting
from ..report.csv_tables import Cell, difference_rows
from ..runs.run_folder import RunFolder, read_run_folders


@dataclass(frozen=True)
class ExportedRun:
    """
    One finished run.

    Attributes:
        id: name of its folder, which differs for another config.
        name: name for people: arm, factors of its setting other than 1, and seed.
        role: one of :data:`~focal_plugin.compare.plan.comparison.ROLES`.
        config: full config key -> value; empty if the run left no config.
        metrics: iteration -> name -> finite number, in the order of the iterations.
        final: name -> finite number at the end: AP in percent, by class, and costs.
    """

    id: str
    name: str
    arm: str
    seed: int
    role: str
    setting: Setting
    config: dict[str, Any]
    metrics: dict[int, dict[str, float]]
    final: dict[str, float]

    @property
    def labels(self) -> dict[str, Any]:
        """Arm, seed, role and setting, which no other run shares."""
        return {
            "arm": self.arm,
            "seed": self.seed,
            "role": self.role,
            **asdict(self.setting),
        }


@dataclass(frozen=True)
class Exported:
    """
    Finished runs of a comparison, and its verdicts.

    Attributes:
        planned: number of all runs, with those that are not finished.
        verdicts: rows of the table of verdicts; the first one is its header.
    """

    name: str
    runs: tuple[ExportedRun, ...]
    planned: int
    verdicts: tuple[tuple[Cell, ...], ...]


def read_exported(folder: Path) -> Exported:
    """
    Read the finished runs of a comparison.

    Raises:
        FileNotFoundError: the folder contains no comparison.
        ValueError: no run is finished.
    """
    comparison = Comparison.read(folder)
    folders = read_run_folders(comparison, folder)
    runs = tuple(_exported(each) for each in folders if each.state == "done")
    if not runs:
        raise ValueError(f"no run of {folder} is done, so there is nothing to export")
    verdicts = difference_rows(summarize(folder, replicates=0))
    return Exported(comparison.name, runs, len(folders), tuple(map(tuple, verdicts)))


def _exported(folder: RunFolder) -> ExportedRun:
    run, result = folder.run, folder.finished
    found = {
        **result.ap,
        **{f"AP-{name}": value for name, value in result.ap_per_class.items()},
        **{
            f"{test_set}/{name}": value
            for test_set, averages in result.ap_of_others.items()
            for name, value in averages.items()
        },
        "iteration_s": result.iteration_s,
        "peak_memory_mib": result.peak_memory_mib,
    }
    return ExportedRun(
        id=run.id,
        name=run.name,
        arm=run.arm,
        seed=run.seed,
        role=run.role,
        setting=run.setting,
        config=dict(_leaves(folder.config or {})),
        metrics={line["iteration"]: _finite(line) for line in folder.metrics},
        final=_finite(found),
    )


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    return {
        name: value
        for name, value in values.items()
        if name != "iteration" and value is not None and math.isfinite(value)
    }


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value
