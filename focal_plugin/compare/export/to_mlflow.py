"""Export to MLflow."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..report.csv_tables import csv_text
from .content import Exported, ExportedRun
from .targets import require

T = TypeVar("T")

TAG = "focal_plugin.id"
"""Tag with the id of a run, by which it is found again."""

VERDICTS = "verdicts"
"""Name and id of the run with the table of verdicts."""

MOST_PARAMS, MOST_METRICS, MOST_CHARACTERS = 100, 1000, 6000
"""Limits of one call, and of the value of a parameter."""


def write(exported: Exported, out: Path) -> str:
    """
    Write one run for each run and one for the verdicts, see :class:`.Target`.

    They are in the SQLite store of ``out``, unless the environment has an `MLFLOW_TRACKING_URI`.
    """
    mlflow = require("mlflow")
    client, uri = _client(mlflow, out)
    try:
        experiment = _experiment(client, exported.name, out, local=uri.startswith("sqlite:"))
        for run in exported.runs:
            if _find(client, experiment, run.id) is None:
                _write_run(mlflow, client, experiment, run)
        found = _find(client, experiment, VERDICTS) or _create(
            client, experiment, VERDICTS, VERDICTS, {}
        )
        client.log_text(found, csv_text(exported.verdicts), "verdicts.csv")
        client.set_terminated(found)
    except mlflow.exceptions.MlflowException as error:
        raise ValueError(f"mlflow: {error}") from error
    command = f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    return f"The runs are in the experiment {exported.name!r} of {uri}; see them with `{command}`."


def _client(mlflow: Any, out: Path) -> tuple[Any, str]:
    """Return a client, and the address of its store."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        out.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{(out / 'mlflow.db').absolute()}"
    return mlflow.MlflowClient(tracking_uri=uri), uri


def _experiment(client: Any, name: str, out: Path, *, local: bool) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    place = (out / "artifacts").absolute().as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=place))


def _find(client: Any, experiment: str, run_id: str) -> str | None:
    found = client.search_runs(
        [experiment], filter_string=f"tags.`{TAG}` = '{run_id}'", max_results=1
    )
    return found[0].info.run_id if found else None


def _create(client: Any, experiment: str, run_id: str, name: str, labels: dict[str, Any]) -> str:
    tags = {TAG: run_id, **{key: str(value) for key, value in labels.items()}}
    return str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)


def _write_run(mlflow: Any, client: Any, experiment: str, run: ExportedRun) -> None:
    params = [
        mlflow.entities.Param(_key(key), str(value)[:MOST_CHARACTERS])
        for key, value in run.config.items()
    ]
    now = int(time.time() * 1000)
    last = max(run.metrics, default=0)
    numbers = [(key, value, i) for i, line in run.metrics.items() for key, value in line.items()]
    numbers += [(f"final/{key}", value, last) for key, value in run.final.items()]
    metrics = [mlflow.entities.Metric(_key(key), value, now, step) for key, value, step in numbers]
    created = _create(client, experiment, run.id, run.name, run.labels)
    for chunk in _chunks(params, MOST_PARAMS):
        client.log_batch(created, params=chunk)
    for chunk in _chunks(metrics, MOST_METRICS):
        client.log_batch(created, metrics=chunk)
    client.set_terminated(created)


def _key(name: str) -> str:
    """Return a name with the characters that MLflow accepts."""
    return re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
