"""What every engine can do, and what they can be told."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...runs.status import Status
from ..claim import LEASE, Lease
from ..run_one import TRAINER, Task
from ..trainer_process import Urgency

ENGINES = {"local": "LocalEngine", "ray": "RayEngine", "slurm": "SlurmEngine"}


@dataclass(frozen=True)
class Options:
    """
    How a sweep is run.

    Attributes:
        engine: one of :data:`ENGINES`.
        jobs: runs at a time; None: one for each GPU, or one. A Ray cluster has its own limit.
        gpus_per_run: None: one if there is one; a fraction lets runs share a GPU, 0 hands none out.
        cpus_per_run: None: the processors divided by the runs at a time.
        retry_failed: train again what has failed.
        address: of a Ray cluster; None starts Ray on this machine.
        cluster: "slurm", or "local" to try the Slurm engine without Slurm.
        slurm: more parameters of submitit's executor, such as `slurm_partition`.
        lease: how soon a lost owner is noticed.
        trainer: the script that trains.
    """

    engine: str = "local"
    jobs: int | None = None
    gpus_per_run: float | None = None
    cpus_per_run: int | None = None
    retry_failed: bool = False
    address: str | None = None
    cluster: str = "slurm"
    slurm: Mapping[str, Any] = field(default_factory=dict)
    lease: Lease = LEASE
    trainer: tuple[str, ...] = TRAINER


class Handle(Protocol):
    """A task on its way."""

    def done(self) -> bool:
        """Whether :meth:`result` would return, or raise, at once."""

    def result(self) -> Status:
        """
        What `run_one` returned.

        Raises:
            Exception: whatever lost the task on its way.
        """


class Engine(Protocol):
    """Runs tasks; made with :class:`Options` and the folder of the sweep."""

    description: str
    """One line for people: what it gives to each run."""

    def submit(self, tasks: Sequence[Task]) -> list[Handle]:
        """Run them as soon as there is room."""

    def stop(self, urgency: Urgency) -> None:
        """Ask all that was submitted to stop; their handles are done soon after."""

    def close(self) -> None:
        """Leave nothing behind."""


def make_engine(options: Options, folder: Path) -> Engine:
    """
    Raises:
        ValueError: there is no such engine, or the options ask for what the machine has not.
        ImportError: what the engine is made of is not installed; the message says how to mend it.
    """
    if options.engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {options.engine!r}")
    module = importlib.import_module(f".{options.engine}", __package__)
    return getattr(module, ENGINES[options.engine])(options, folder)
