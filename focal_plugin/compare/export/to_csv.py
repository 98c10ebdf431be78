"""Export to CSV files, for a spreadsheet, pandas or R."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ...files import write_all
from ..report.csv_tables import SETTING, Cell, csv_text
from .content import Exported, ExportedRun

HEAD = ("id", "arm", "seed", "role", *SETTING)
"""First columns of `runs.csv`."""


def write(exported: Exported, out: Path) -> str:
    """Write `runs.csv`, `metrics.csv`, `config.csv` and `verdicts.csv`, see :class:`.Target`."""
    tables = {
        "runs.csv": _runs(exported.runs),
        "metrics.csv": _metrics(exported.runs),
        "config.csv": _configs(exported.runs),
        "verdicts.csv": exported.verdicts,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_all({out / name: csv_text(rows).encode() for name, rows in tables.items()})
    return f"{', '.join(tables)} are in {out}."


def _runs(runs: Iterable[ExportedRun]) -> Iterator[list[Cell]]:
    """Yield a row for each run: what it is, and its final numbers."""
    runs = list(runs)
    fullest = sorted(runs, key=lambda run: -len(run.final))  # a run that detected nothing has no AP
    names = list(dict.fromkeys(name for run in fullest for name in run.final))
    yield [*HEAD, *names]
    for run in runs:
        yield [run.id, *run.labels.values(), *map(run.final.get, names)]


def _metrics(runs: Iterable[ExportedRun]) -> Iterator[list[Cell]]:
    """Yield a row for each logged iteration of each run."""
    runs = list(runs)
    names = sorted({name for run in runs for line in run.metrics.values() for name in line})
    yield ["id", "iteration", *names]
    for run in runs:
        for iteration, line in run.metrics.items():
            yield [run.id, iteration, *map(line.get, names)]


def _configs(runs: Iterable[ExportedRun]) -> Iterator[list[Cell]]:
    """Yield a row for each config key, and a column for each run."""
    runs = list(runs)
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    yield ["key", *(run.id for run in runs)]
    for key in keys:
        yield [key, *(str(run.config[key]) if key in run.config else None for run in runs)]
