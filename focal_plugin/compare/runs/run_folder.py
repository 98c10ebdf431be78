"""What the runs of a comparison left in their folders, whatever state they are in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ...run_folder import CONFIG_FILE, DETECTIONS_FILE, ENVIRONMENT_FILE
from ..analysis.fairness import read_config, read_start
from ..plan.comparison import Comparison, Run
from .result import Result, read_metrics
from .status import Status


@dataclass(frozen=True)
class RunRecord:
    """
    One run and its folder; a file that is missing or broken is None, as a run may be at work on it.

    Attributes:
        folder: of the run, there or not.
        status: as its file says.
        result: None unless it is done.
    """

    run: Run
    folder: Path
    status: Status
    result: Result | None

    @property
    def finished(self) -> Result:
        """The result of a run that is done."""
        assert self.result is not None
        return self.result

    @property
    def state(self) -> str:
        """One of :data:`~..status.STATES`; done is what has a result, whatever its status says."""
        if self.result is not None:
            return "done"
        return "pending" if self.status.state == "done" else self.status.state

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.folder)

    @cached_property
    def env(self) -> dict[str, Any] | None:
        """`env.json`: versions, device, threads, data sets."""
        return _read_json(self.folder / ENVIRONMENT_FILE)

    @cached_property
    def start(self) -> dict[str, Any] | None:
        """`start.json`: digests of the weights and of the first batches."""
        try:
            return read_start(self.folder)
        except json.JSONDecodeError:
            return None

    @cached_property
    def config(self) -> CfgNode | None:
        """`config.yaml` as Detectron2 wrote it, resolved."""
        try:
            return read_config(self.folder / CONFIG_FILE)
        except (FileNotFoundError, ValueError):
            return None

    @property
    def detections(self) -> Path | None:
        """The file of its detections, if the run is done and it is there."""
        file = self.folder / DETECTIONS_FILE
        return file if self.result is not None and file.is_file() else None


def read_records(comparison: Comparison, folder: Path) -> list[RunRecord]:
    """One for each run, in the order of the comparison."""
    return [_read_record(run, folder / run.id) for run in comparison.runs]


def _read_record(run: Run, folder: Path) -> RunRecord:
    return RunRecord(run, folder, Status.read(folder), Result.read(folder))


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None
