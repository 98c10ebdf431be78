"""Folders of the runs of a comparison, in any state."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from ...run_folder import CONFIG_FILE, DETECTIONS_NAME, detections_folder, snapshot_files
from ..plan.comparison import Comparison, Run
from .environment import Environment
from .result import Result, read_metrics
from .start import Start
from .status import Status


@dataclass(frozen=True)
class RunFolder:
    """
    Files of one run, in any state. Each file is read at most once, when it is first asked for.

    A file that is missing or broken is None, because a run may be writing it.

    Attributes:
        run: the run of the plan.
        path: the folder, which may not exist.
        status: content of `status.json`.
        result: content of `result.json`; None unless the run is done.
    """

    run: Run
    path: Path
    status: Status
    result: Result | None

    @classmethod
    def read(cls, run: Run, path: Path) -> RunFolder:
        """Read status and result of a run; the other files are read on demand."""
        return cls(run, path, Status.read(path), Result.read(path))

    @property
    def finished(self) -> Result:
        """Result of a run that is done."""
        assert self.result is not None
        return self.result

    @property
    def state(self) -> str:
        """One of :data:`~.status.STATES`. A run is done if and only if it has a result."""
        if self.result is not None:
            return "done"
        return "pending" if self.status.state == "done" else self.status.state

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of `metrics.json`, see :func:`~.result.read_metrics`."""
        return read_metrics(self.path)

    @cached_property
    def environment(self) -> Environment | None:
        """Content of `env.json`: versions, device, threads, datasets."""
        try:
            return Environment.read(self.path)
        except (FileNotFoundError, ValueError):
            return None

    @cached_property
    def start(self) -> Start | None:
        """Content of `start.json`: digests of the weights and of the first batches."""
        try:
            return Start.read(self.path)
        except ValueError:
            return None

    @cached_property
    def config(self) -> CfgNode | None:
        """Resolved config of the run, from `config.yaml`."""
        try:
            return read_config(self.path / CONFIG_FILE)
        except (FileNotFoundError, ValueError):
            return None

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the test sets; the verdicts are about the first."""
        return tuple(data.name for data in self.environment.test) if self.environment else ()

    @property
    def detections(self) -> Path | None:
        """Detections on the first test set; see :meth:`detections_on`."""
        return self.detections_on(next(iter(self.test_sets), ""))

    def detections_on(self, test_set: str) -> Path | None:
        """Return the file; None if the run is not done or the file does not exist."""
        file = self.path / detections_folder(test_set, self.test_sets) / DETECTIONS_NAME
        return file if self.result is not None and file.is_file() else None

    def detected_nothing(self, test_set: str | None = None) -> bool:
        """Return True if the detections exist and are an empty list. None: the first test set."""
        file = self.detections if test_set is None else self.detections_on(test_set)
        return file is not None and json.loads(file.read_text(encoding="utf-8")) == []

    def snapshots(self, moment: str) -> list[Path]:
        """Return the snapshot files of one of :data:`~focal_plugin.run_folder.MOMENTS`."""
        return snapshot_files(self.path, moment)


def read_run_folders(comparison: Comparison, folder: Path) -> list[RunFolder]:
    """Return one :class:`RunFolder` per run, in the order of the comparison."""
    return [RunFolder.read(run, folder / run.id) for run in comparison.runs]


def read_config(file: Path) -> CfgNode:
    """
    Read the `config.yaml` of a run. A key that this version does not have is kept.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not safe YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not safe YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not a config: it holds no mapping")
    return CfgNode(content)
