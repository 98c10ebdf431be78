"""
Engine that runs tasks as Slurm jobs, through submitit; all machines share the folder of the runs.

A job that is preempted, requeued or out of time stops its trainer. Slurm starts it again, and the
run resumes. A job that leaves the queue without a result is lost, and the sweep submits its run
again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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
POLL_S = 5.0
"""Seconds between two looks at the queue. Slurm needs no look to start the next job."""
TERMINATED = 128 + signal.SIGTERM


class SlurmEngine:
    """Engine with one Slurm job per run; jobs that are submitted together form an array."""

    poll_s = POLL_S

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
        self._queue: _Queue = _SlurmQueue() if options.cluster == "slurm" else _LocalQueue()
        self._handles: list[_Handle] = []
        self._executor = submitit.AutoExecutor(
            folder=folder / LOG_FOLDER,
            cluster=options.cluster,
            slurm_max_num_timeout=MAX_TIMEOUTS,
            local_max_num_timeout=MAX_TIMEOUTS,
        )
        self._executor.update_parameters(**self._parameters(options))

    def submit(self, tasks: Sequence[Task]) -> list[_Handle]:
        with self._executor.batch():
            jobs = [
                self._executor.submit(
                    RunJob(replace(task, num_gpus=self._gpus), self._cpus, self._stop_file)
                )
                for task in tasks
            ]
        handles = [_Handle(job, self._queue) for job in jobs]
        self._handles += handles
        return handles

    def stop(self, urgency: Urgency) -> None:
        self._stop_file.ask(urgency)
        for handle in self._handles:
            if not handle.done() and (urgency is Urgency.KILL or handle.waits()):
                handle.cancel()

    def close(self) -> None:
        self._stop_file.remove()

    def _parameters(self, options: Options) -> dict[str, Any]:
        parameters = {
            "name": "focal-compare",
            "cpus_per_task": self._cpus,
            "gpus_per_node": self._gpus,
            "timeout_min": TIME_LIMIT_MIN,
            "slurm_signal_delay_s": SIGNAL_DELAY_S,
            "slurm_additional_parameters": {"export": ",".join(_exported())},
            **options.slurm,
        }
        if options.jobs is not None:
            parameters["slurm_array_parallelism"] = options.jobs
        return parameters


def _exported() -> list[str]:
    """Return the names of the variables of a job; no file contains the value of a variable."""
    # The script of the job sets the last one, and its srun passes on only what is listed here
    return [*allowed_variables(os.environ), "SUBMITIT_EXECUTOR"]


class _Queue(Protocol):
    def add(self, job: Any) -> None:
        """Take note of a job that was just submitted."""

    def state(self, job: Any) -> str:
        """Return the state of a job; "" once it has left the queue."""


class _SlurmQueue:
    """
    Queue of Slurm, from one `squeue` for all jobs.

    submitit asks `sacct` instead, which fails on a cluster without accounting. There a cancelled
    job would never end.
    """

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._before: dict[str, str] = {}
        self._looked = -POLL_S

    def add(self, job: Any) -> None:
        self._states[job.job_id] = "PENDING"  # the last look was before

    def state(self, job: Any) -> str:
        if time.monotonic() - self._looked >= POLL_S:
            self._look()
        # A job that Slurm moves back into the queue may be absent for a moment
        return self._states.get(job.job_id) or self._before.get(job.job_id, "")

    def _look(self) -> None:
        user = f"--user={os.getuid()}"
        command = ["squeue", "--noheader", "--array", "--format=%i %T", user]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        self._looked = time.monotonic()
        if done.returncode == 0:  # else the controller is busy, or restarts
            lines = (line.partition(" ") for line in done.stdout.splitlines())
            self._before = self._states
            self._states = {job: state for job, _, state in lines}


class _LocalQueue:
    """Processes that submitit started, to test the engine without Slurm."""

    def add(self, job: Any) -> None:
        pass

    def state(self, job: Any) -> str:
        return "" if job.done() else str(job.state)


class _Handle:
    """Job of submitit."""

    def __init__(self, job: Any, queue: _Queue) -> None:
        queue.add(job)
        self._job = job
        self._queue = queue

    def done(self) -> bool:
        return self._has_result() or not self._queue.state(self._job)

    def waits(self) -> bool:
        return self._queue.state(self._job) == "PENDING"

    def result(self) -> Status:
        if not self._has_result():
            log = self._job.paths.stderr
            raise RuntimeError(f"job {self._job.job_id} ended without a result, see {log}")
        return self._job.result()

    def cancel(self) -> None:
        self._job.cancel(check=False)

    def _has_result(self) -> bool:
        return bool(self._job.paths.result_pickle.exists())


class RunJob:
    """
    Body of a job.

    A separate thread trains the run. Python delivers the signal of a preemption to the main thread,
    which can then wait until the trainer has stopped.

    Slurm sends SIGTERM before it ends or requeues a job. The job then leaves no result, because it
    may start again.
    """

    def __init__(self, task: Task, cpus: int, stop_file: StopFile) -> None:
        self._task = task
        self._cpus = cpus
        self._stop_file = stop_file
        self._preempted = False
        self._terminated = False
        self._thread: threading.Thread | None = None

    def __call__(self) -> Status:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)  # submitit ignores it
        self._thread = threading.Thread(target=self._train)
        self._thread.start()
        self._thread.join()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        if self._terminated and not self._task.is_settled(self._outcome):
            raise SystemExit(TERMINATED)
        return self._outcome

    def checkpoint(self) -> DelayedSubmission:
        """Stop the trainer, and return the job that submitit runs after the requeue."""
        from submitit.helpers import DelayedSubmission

        self._preempted = True
        if self._thread is not None:
            self._thread.join()
        return DelayedSubmission(RunJob(self._task, self._cpus, self._stop_file))

    def _terminate(self, number: int, frame: object) -> None:
        self._preempted = self._terminated = True

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
