"""
Engine that runs tasks as Slurm jobs, through submitit; all machines share the folder of the runs.

A job that is preempted or out of time stops its trainer. Slurm requeues it, and the run resumes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runs.status import Status
from ..run_one import Task, run_one
from ..trainer_process import STOP_S, Urgency
from .base import Options
from .remote import StopFile, allowed_variables, import_extra
from .resources import thread_variables

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

LOG_FOLDER = "slurm"
CPUS_PER_RUN = 4
TIME_LIMIT_MIN = 240
MAX_TIMEOUTS = 100
SIGNAL_DELAY_S = int(2 * STOP_S)
"""Seconds between the warning of a job and its end."""


class SlurmEngine:
    """Engine with one Slurm job per run; jobs that are submitted together form an array."""

    def __init__(self, options: Options, folder: Path) -> None:
        """
        Make the executor of submitit.

        Raises:
            ImportError: submitit is not installed.
            RuntimeError: Slurm is not available.
        """
        submitit = import_extra("submitit", "slurm")
        self._cpus = options.cpus_per_run or CPUS_PER_RUN
        gpus = options.gpus_per_run
        if gpus is None:  # the submitting machine may have no GPU
            gpus = float(options.cluster == "slurm")
        if gpus != int(gpus):
            raise ValueError(f"Slurm assigns whole GPUs to a run, got {gpus}")
        self._gpus = int(gpus)
        self.description = f"{self._cpus} thread(s) and {self._gpus} GPU(s) for each run"
        self._stop_file = StopFile(folder)
        self._jobs: list[Any] = []
        self._executor = submitit.AutoExecutor(
            folder=folder / LOG_FOLDER,
            cluster=options.cluster,
            slurm_max_num_timeout=MAX_TIMEOUTS,
            local_max_num_timeout=MAX_TIMEOUTS,
        )
        self._executor.update_parameters(**self._parameters(options))

    def submit(self, tasks: Sequence[Task]) -> list[Any]:
        with self._executor.batch():
            jobs = [
                self._executor.submit(
                    RunJob(replace(task, num_gpus=self._gpus), self._cpus, self._stop_file)
                )
                for task in tasks
            ]
        self._jobs += jobs
        return jobs

    def stop(self, urgency: Urgency) -> None:
        self._stop_file.ask(urgency)
        for job in self._jobs:
            waits = job.state == "PENDING"
            if waits or (urgency is Urgency.KILL and not job.done()):
                job.cancel(check=False)

    def close(self) -> None:
        self._stop_file.remove()

    def _parameters(self, options: Options) -> dict[str, Any]:
        parameters = {
            "name": "focal-compare",
            "cpus_per_task": self._cpus,
            "gpus_per_node": self._gpus,
            "timeout_min": TIME_LIMIT_MIN,
            "slurm_signal_delay_s": SIGNAL_DELAY_S,
            # names only: no file contains the value of a variable
            "slurm_additional_parameters": {"export": ",".join(allowed_variables(os.environ))},
            **options.slurm,
        }
        if options.jobs is not None:
            parameters["slurm_array_parallelism"] = options.jobs
        return parameters


class RunJob:
    """
    Body of a job.

    A separate thread trains the run. Python delivers the signal of a preemption to the main thread,
    which can then wait until the trainer has stopped.
    """

    def __init__(self, task: Task, cpus: int, stop_file: StopFile) -> None:
        self._task = task
        self._cpus = cpus
        self._stop_file = stop_file
        self._preempted = False
        self._thread: threading.Thread | None = None

    def __call__(self) -> Status:
        self._thread = threading.Thread(target=self._train)
        self._thread.start()
        self._thread.join()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome

    def checkpoint(self) -> DelayedSubmission:
        """Stop the trainer, and return the job that submitit runs after the requeue."""
        from submitit.helpers import DelayedSubmission

        self._preempted = True
        if self._thread is not None:
            self._thread.join()
        return DelayedSubmission(RunJob(self._task, self._cpus, self._stop_file))

    def _train(self) -> None:
        environment = {**allowed_variables(os.environ), **thread_variables(self._cpus)}
        try:
            self._outcome: Status | BaseException = run_one(
                self._task, environment=environment, urgency=self._urgency
            )
        except BaseException as error:
            self._outcome = error

    def _urgency(self) -> Urgency:
        asked = self._stop_file.urgency()
        return max(asked, Urgency.STOP) if self._preempted else asked
