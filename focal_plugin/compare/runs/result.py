"""Result of a run, and the readers of the files that it is made from."""

from __future__ import annotations

import json
import math
import re
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ...files import write_json
from ...json_file import INTEGERS, read_object, undamaged
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
    versions: dict[str, str | None] = field(default_factory=dict)
    ap_of_others: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "AP" not in self.ap:
            raise ValueError("ap.AP is missing")

    def write(self, folder: Path) -> None:
        """Write `result.json` atomically: a file that exists is complete."""
        write_json(folder / RESULT_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Result | None:
        """
        Read `result.json`; return None if the run is not finished.

        Raises:
            DamagedFileError: the file cannot be read, or holds no result.
        """
        return read_object(cls, folder / RESULT_FILE)


class Metrics(NamedTuple):
    """
    Content of `metrics.json`.

    Attributes:
        lines: one entry per iteration, in order; a resumed run overwrites its entries.
        damaged: numbers of the lines that could not be read, from 1.
    """

    lines: list[dict[str, Any]]
    damaged: tuple[int, ...] = ()


def read_metrics(folder: Path, *, done: bool = False) -> Metrics:
    """
    Read `metrics.json`; a run that logged nothing has no lines.

    Args:
        done: False if the run may still write its last line, so that a cut one is no damage.

    Raises:
        DamagedFileError: the file cannot be read.
    """
    file = folder / METRICS_FILE
    lines = (undamaged(file, file.read_bytes) or b"").split(b"\n")
    by_iteration: dict[int, dict[str, Any]] = {}
    damaged = []
    for number, line in enumerate(lines, start=1):
        metrics = parse_metrics(line)
        if metrics is not None:
            by_iteration.setdefault(metrics["iteration"], {}).update(metrics)
        elif line and (done or number < len(lines)):
            damaged.append(number)
    return Metrics([by_iteration[i] for i in sorted(by_iteration)], tuple(damaged))


def parse_metrics(line: bytes) -> dict[str, Any] | None:
    """
    Parse a line of `metrics.json`: a JSON object with an integer `iteration`, and numbers.

    Returns:
        None if the line is damaged. A number may be NaN.
    """
    try:
        metrics = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(metrics, dict) or not all(map(_is_number, metrics.values())):
        return None
    iteration = metrics.get("iteration")
    return metrics if isinstance(iteration, int) and iteration >= 0 else None


def read_average_precision(
    metrics: list[dict[str, Any]], iterations: int, test_set: str | None = None
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """
    Return the evaluation after training: the COCO averages, and AP by class in no particular order.

    Args:
        iterations: number of training iterations.
        test_set: one of several test sets. None: the only one, or the first.

    Raises:
        ValueError: there is no such evaluation.
    """
    # Detectron2 logs it at the last iteration, or at the one after it
    last_iteration = iterations - 1
    task = "bbox/" if test_set is None else f"{test_set}/bbox/"
    evaluated = [x for x in metrics if f"{task}AP" in x and x["iteration"] >= last_iteration]
    if not evaluated:
        where = "" if test_set is None else f" of {test_set}"
        raise ValueError(
            f"{METRICS_FILE} has no evaluation{where} after iteration {last_iteration}"
        )
    last, prefix = evaluated[-1], f"{task}AP-"
    per_class = {k[len(prefix) :]: _number(v) for k, v in last.items() if k.startswith(prefix)}
    return {name: _number(last.get(f"{task}{name}")) for name in AVERAGES}, per_class


def read_iteration_s(metrics: list[dict[str, Any]]) -> float:
    """
    Return the median of the logged iteration times; each is a median of 20 iterations.

    Raises:
        ValueError: no time was logged.
    """
    times = [line["time"] for line in metrics if math.isfinite(line.get("time", math.nan))]
    if not times:
        raise ValueError(
            f"{METRICS_FILE} has no time of an iteration; delete the folder of the run"
        )
    return statistics.median(times)


def read_peak_gpu_memory_mib(folder: Path) -> float | None:
    """
    Return the largest `max_mem` of the log, or None for a run on the CPU.

    Raises:
        DamagedFileError: the log cannot be read.
    """
    log = folder / LOG_FILE
    found = re.findall(rb"max_mem: (\d{1,9})M", undamaged(log, log.read_bytes) or b"")
    return max(map(float, found), default=0.0) or None  # a run on the CPU of a GPU machine logs 0


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and value in INTEGERS)


def _number(value: float | None) -> float | None:
    """Return None for NaN, which COCO reports if there are no objects and JSON does not allow."""
    return None if value is None or not math.isfinite(value) else value
