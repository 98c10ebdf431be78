"""Folders of the runs of a comparison, in any state."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from detectron2.config import CfgNode

from ...diagnostics.loss_balance import LossBalance, read_balance
from ...json_file import DamagedFileError, read_object, undamaged
from ...run_folder import (
    CONFIG_FILE,
    DETECTIONS_NAME,
    METRICS_FILE,
    MOMENTS,
    STATUS_FILE,
    balance_file,
    detections_folder,
    snapshot_files,
)
from ...yaml_text import MAX_DEPTH, load
from ..plan.comparison import Comparison, Run
from .environment import Environment
from .result import Metrics, Result, read_metrics
from .start import Start
from .status import Status, read_state

T = TypeVar("T")

# Lines of the keys in which the configs of an arm differ, with their continuation
_OF_ONE_RUN = re.compile(r"^(?:SEED|OUTPUT_DIR):.*\n?(?:[ \t]+.*\n?)*", re.MULTILINE)

_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # six times as fast, if built
# A config that Detectron2 writes has two aliases. So many make a text at most 40 times as long
_FEW_ALIASES = 10


@dataclass(frozen=True)
class RunFolder:
    """
    Files of one run, in any state. Each file is read once.

    A file that is missing or damaged is None, and :attr:`damage` names the damaged ones.

    Attributes:
        run: the run of the plan.
        path: the folder, which may not exist.
        status: content of `status.json`, see :meth:`~.status.Status.read`.
        result: content of `result.json`; None unless the run is done.
        metrics: lines of `metrics.json`, see :func:`~.result.read_metrics`.
        environment: content of `env.json`: versions, device, threads, datasets.
        start: content of `start.json`: digests of the weights and of the first batches.
        config: resolved config of the run, from `config.yaml`.
        balances: one of :data:`~focal_plugin.run_folder.MOMENTS` -> balance of the losses.
        damage: sentences on damaged files.
    """

    run: Run
    path: Path
    status: Status
    result: Result | None
    metrics: list[dict[str, Any]]
    environment: Environment | None
    start: Start | None
    config: CfgNode | None
    balances: dict[str, LossBalance]
    damage: tuple[str, ...]

    @classmethod
    def read(cls, run: Run, path: Path) -> RunFolder:
        """Read all small files of a run."""
        damage: list[str] = []

        def attempt(read: Callable[[Path], T | None]) -> T | None:
            try:
                return read(path)
            except DamagedFileError as error:
                damage.append(str(error))
                return None

        status, result = read_state(path)
        done = result is not None
        if done:  # then a damaged status has no effect
            attempt(lambda folder: read_object(Status, folder / STATUS_FILE))
        metrics = attempt(lambda folder: read_metrics(folder, done=done))
        if metrics is None:
            metrics = Metrics([])
        elif metrics.damaged:
            damage.append(f"{path / METRICS_FILE} is damaged in {_lines(metrics.damaged)}")
        elif done and not metrics.lines:
            damage.append(f"{path / METRICS_FILE} holds no measurements")
        environment, start = attempt(Environment.read), attempt(Start.read)
        config = attempt(lambda folder: read_config(folder / CONFIG_FILE))
        balances = {m: attempt(functools.partial(_read_balance, moment=m)) for m in MOMENTS}
        of_tests = (_detections_file(path, name, environment) for name in _test_sets(environment))
        if done:
            damage += [f"{file} is missing" for file in of_tests if not file.is_file()]
        return cls(
            run=run,
            path=path,
            status=status,
            result=result,
            metrics=metrics.lines,
            environment=environment,
            start=start,
            config=config,
            balances={moment: found for moment, found in balances.items() if found},
            damage=tuple(damage),
        )

    @property
    def finished(self) -> Result:
        """Result of a run that is done."""
        assert self.result is not None
        return self.result

    @property
    def state(self) -> str:
        """One of :data:`~.status.STATES`. A run is done if and only if it has a result."""
        return self.status.state

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the test sets, the first of the verdicts; ("",) if `env.json` names none."""
        return _test_sets(self.environment)

    @property
    def detections(self) -> Path | None:
        """Detections on the first test set; see :meth:`detections_on`."""
        return self.detections_on(self.test_sets[0])

    def detections_on(self, test_set: str) -> Path | None:
        """Return the file; None if the run is not done or the file does not exist."""
        file = _detections_file(self.path, test_set, self.environment)
        return file if self.result is not None and file.is_file() else None

    def detected_nothing(self, test_set: str | None = None) -> bool:
        """Return True if the detections exist and are an empty list. None: the first test set."""
        file = self.detections if test_set is None else self.detections_on(test_set)
        return file is not None and file.read_bytes().strip() == b"[]"

    def snapshots(self, moment: str) -> list[Path]:
        """Return the snapshot files of one of :data:`~focal_plugin.run_folder.MOMENTS`."""
        return snapshot_files(self.path, moment)


def read_run_folders(comparison: Comparison, folder: Path) -> list[RunFolder]:
    """Return one :class:`RunFolder` per run, in the order of the comparison."""
    return [RunFolder.read(run, folder / run.id) for run in comparison.runs]


def _read_balance(folder: Path, *, moment: str) -> LossBalance | None:
    return read_balance(balance_file(folder, moment))


def _test_sets(environment: Environment | None) -> tuple[str, ...]:
    return (environment and tuple(data.name for data in environment.test)) or ("",)


def _detections_file(path: Path, test_set: str, environment: Environment | None) -> Path:
    return path / detections_folder(test_set, _test_sets(environment)) / DETECTIONS_NAME


def read_config(file: Path) -> CfgNode | None:
    """
    Read the `config.yaml` of a run; None if it does not exist.

    A key that this version does not have is kept. Do not change the config: the runs of an arm
    share all of it but the seed and the folder, because a sweep has hundreds of equal texts.

    Raises:
        DamagedFileError: it is not safe YAML, or not a mapping.
    """
    return undamaged(file, lambda: _config_of_run(file.read_text(encoding="utf-8")))


def _config_of_run(text: str) -> CfgNode:
    own, shared = "".join(_OF_ONE_RUN.findall(text)), _OF_ONE_RUN.sub("", text)
    if own and shared.strip():
        with contextlib.suppress(ValueError):  # the whole text says better what is wrong with it
            config = CfgNode()
            for part in (_shared_config(shared), _config_of(own)):
                dict.update(config, part)
            return config
    return _config_of(text)


@functools.lru_cache(maxsize=32)
def _shared_config(text: str) -> CfgNode:
    return _config_of(text)


def _lines(numbers: tuple[int, ...]) -> str:
    """Return the first of the line numbers as text."""
    first = ", ".join(map(str, numbers[:5]))
    return f"line {first}, ..." if len(numbers) > 5 else f"line {first}"


def _config_of(text: str) -> CfgNode:
    try:  # with few aliases, the fast loader cannot make much more of the text than there is
        content = yaml.load(text, _YAML_LOADER) if text.count("*") <= _FEW_ALIASES else None
    except yaml.YAMLError as error:
        raise ValueError(f"it is not safe YAML: {' '.join(str(error).split())}") from error
    if content is None or _is_deep(content):  # an alias that leads back to itself is deep, too
        content = load(text, "it")
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    try:
        return CfgNode(content)
    except AssertionError as error:  # a value of a type that no config has, such as a date
        raise ValueError(f"it is no config: {error}") from error


def _is_deep(value: Any, level: int = 0) -> bool:
    """Return True if a value is nested more than :data:`~focal_plugin.yaml_text.MAX_DEPTH` deep."""
    if not isinstance(value, dict | list):
        return False
    below = value.values() if isinstance(value, dict) else value
    return level >= MAX_DEPTH or any(_is_deep(each, level + 1) for each in below)
