"""Result of a run, and the readers of the files that it is made from."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...files import write_json
from ...run_folder import LOG_FILE, METRICS_FILE, RESULT_FILE

AVERAGES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Result:
    """
    Result of a finished run.

    Attributes:
        ap: COCO averages, percent; None if the data has no such objects.
        ap_per_class: class name -> AP, percent, in the order of the classes.
        iteration_s: median seconds per iteration, including data loading.
        peak_memory_mib: peak GPU memory; without a GPU, the largest resident set.
        ap_of_others: name of each further test set -> its COCO averages, as ``ap``.
        config_hash: hash of the :class:`~focal_plugin.compare.plan.comparison.Run`.
    """

    arm: str
    seed: int
    ap: dict[str, float | None]
    ap_per_class: dict[str, float | None]
    iterations: int
    iteration_s: float
    peak_memory_mib: float
    config_hash: str
    versions: dict[str, str] = field(default_factory=dict)
    ap_of_others: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write `result.json` atomically: a file that exists is complete."""
        write_json(folder / RESULT_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Result | None:
        """Read `result.json`; return None if the run is not finished."""
        file = folder / RESULT_FILE
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """
    Read `metrics.json`: one entry per iteration, in order; a resumed run overwrites its entries.

    A truncated line at the end is skipped, because the run is writing it or was killed.
    """
    file = folder / METRICS_FILE
    if not file.exists():
        return []
    by_iteration: dict[int, dict[str, Any]] = {}
    for metrics in parse_metrics(file.read_bytes()):
        by_iteration.setdefault(metrics["iteration"], {}).update(metrics)
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def parse_metrics(content: bytes) -> Iterator[dict[str, Any]]:
    """
    Yield the valid lines of `metrics.json`: JSON objects with an integer `iteration`.

    A killed run may leave a broken line, which the next attempt continues. It is skipped.
    """
    for line in content.splitlines():
        try:
            metrics = json.loads(line)
        except ValueError:
            continue
        if isinstance(metrics, dict) and isinstance(metrics.get("iteration"), int):
            yield metrics


def read_average_precision(
    metrics: list[dict[str, Any]], test_set: str | None = None
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """
    Return the last evaluation: the COCO averages, and AP by class in no particular order.

    Args:
        test_set: one of several test sets. None: the only one, or the first.

    Raises:
        ValueError: the run has not been evaluated.
    """
    task = "bbox/" if test_set is None else f"{test_set}/bbox/"
    evaluated = [line for line in metrics if f"{task}AP" in line]
    if not evaluated:
        raise ValueError(f"no evaluation in {METRICS_FILE}")
    last, prefix = evaluated[-1], f"{task}AP-"
    per_class = {k[len(prefix) :]: _number(v) for k, v in last.items() if k.startswith(prefix)}
    return {name: _number(last.get(f"{task}{name}")) for name in AVERAGES}, per_class


def read_iteration_s(metrics: list[dict[str, Any]]) -> float:
    """Return the median of the logged iteration times; each is a median of 20 iterations."""
    return statistics.median(line["time"] for line in metrics if "time" in line)


def read_peak_gpu_memory_mib(folder: Path) -> float | None:
    """Return the largest `max_mem` of the log, or None for a run on the CPU."""
    log = folder / LOG_FILE
    found = re.findall(r"max_mem: (\d+)M", log.read_text(encoding="utf-8")) if log.exists() else []
    return max(map(float, found), default=0.0) or None  # a run on the CPU of a GPU machine logs 0


def _number(value: float | None) -> float | None:
    """Return None for NaN, which COCO reports if there are no objects and JSON does not allow."""
    return None if value is None or math.isnan(value) else value
