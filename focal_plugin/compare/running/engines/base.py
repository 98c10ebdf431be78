"""Interface and options of the engines."""

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
    Options of a sweep.

    Attributes:
        engine: one of :data:`ENGINES`.
        jobs: runs at a time; None: one per GPU, or one without GPUs. A Ray cluster has its own
            limit.
        gpus_per_run: GPUs of each run; None: one if available, or a share if there are more jobs
            than GPUs. A fraction lets runs share a GPU, and 0 assigns none.
        cpus_per_run: threads of each run; None: the processors divided by the runs at a time.
        retry_failed: train failed runs again.
        address: address of a Ray cluster; None starts Ray on this machine.
        cluster: "slurm", or "local" to test the Slurm engine without Slurm.
        slurm: more parameters of submitit's executor, such as `slurm_partition`.
        lease: timing of claims.
        trainer: arguments of Python that start the trainer.
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
    """Submitted task."""

    def done(self) -> bool:
        """Return True if :meth:`result` would return or raise at once."""

    def result(self) -> Status:
        """
        Return the status from `run_one`.

        Raises:
            Exception: the error that lost the task in transit.
        """


class Engine(Protocol):
    """Engine that runs tasks; it is made from :class:`Options` and the folder of the sweep."""

    description: str
    """Resources of each run, one line for people."""

    poll_s: float
    """Seconds between two looks at the handles."""

    def submit(self, tasks: Sequence[Task]) -> list[Handle]:
        """Queue tasks, which start as soon as resources are free."""

    def stop(self, urgency: Urgency) -> None:
        """Ask all submitted tasks to stop; their handles are done soon after."""

    def close(self) -> None:
        """Release all resources."""


def make_engine(options: Options, folder: Path) -> Engine:
    """
    Return the engine that the options name.

    Raises:
        ValueError: the engine does not exist, or the options exceed what the machine has.
        ImportError: a package of the engine is not installed; the message says how to install it.
    """
    if options.engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {options.engine!r}")
    module = importlib.import_module(f".{options.engine}", __package__)
    return getattr(module, ENGINES[options.engine])(options, folder)
