"""Training of one run on this machine; all engines call it."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from focal_plugin_allocator import allocator_variables

from ...run_folder import ENVIRONMENT_FILE, TRAIN_LOG_FILE
from ...signals import INTERRUPTED, STOPPED
from ..plan.comparison import Run
from ..runs.environment import Environment
from ..runs.result import (
    Result,
    read_average_precision,
    read_iteration_s,
    read_metrics,
    read_peak_gpu_memory_mib,
)
from ..runs.status import Status
from .claim import LEASE, Claim, HeldError, Lease, take
from .failure import explain_failure, read_log_tail
from .trainer_process import POLL_S, Ended, TrainerProcess, Urgency

TRAINER = ("-m", "focal_plugin.engine")
LOCK_FILE = ".lock"


@dataclass(frozen=True)
class Task:
    """
    Run to train, in the form that is sent to other machines.

    Attributes:
        folder: folder of the run; absolute.
        directory: working directory of the trainer; dataset paths may be relative to it.
        num_gpus: number of GPUs; 0 and 1 are the same to a trainer.
        retry: train a failed run again if it has at most this many attempts; None for never.
        stale: see :func:`~focal_plugin.compare.running.claim.take`.
        trainer: arguments of Python that start the trainer: a module or a script.
    """

    run: Run
    folder: Path
    directory: Path
    num_gpus: int = 0
    retry: int | None = None
    stale: int | None = None
    lease: Lease = LEASE
    trainer: tuple[str, ...] = TRAINER

    def is_settled(self, status: Status) -> bool:
        """Return True if the run needs no training."""
        retried = self.retry is not None and status.attempts <= self.retry
        return status.state == "done" or (status.state == "failed" and not retried)


def run_one(
    task: Task,
    *,
    environment: Mapping[str, str],
    urgency: Callable[[], Urgency] = lambda: Urgency.GO_ON,
) -> Status:
    """
    Train a run from its last checkpoint on, unless it is done or another command trains it.

    Args:
        environment: all environment variables of the trainer.
        urgency: function that is polled while the trainer runs.

    Returns:
        Status "done" or "failed"; "pending" if ``urgency`` stopped the run; or "running", with the
        owner as its reason, if another command trains it.
    """
    status = Status.read(task.folder)
    if task.is_settled(status) or urgency() is not Urgency.GO_ON:
        return status
    task.folder.mkdir(parents=True, exist_ok=True)
    try:
        claim = take(task.folder, stale=task.stale, lease=task.lease)
    except HeldError as error:
        return replace(Status.read(task.folder), state="running", reason=str(error))
    with claim:
        status = Status.read(task.folder)  # another command may have finished it meanwhile
        if task.is_settled(status):
            return status
        return _train(task, claim, status, environment, urgency)


def _train(
    task: Task,
    claim: Claim,
    before: Status,
    environment: Mapping[str, str],
    urgency: Callable[[], Urgency],
) -> Status:
    def asked() -> Urgency:
        return Urgency.KILL if claim.lost.is_set() else urgency()

    running = Status("running", attempts=before.attempts + 1)
    log = task.folder / TRAIN_LOG_FILE
    try:
        with _trainer_gone(task.folder, asked) as lock, log.open("ab") as output:
            if asked() is not Urgency.GO_ON:
                return before
            start = output.tell()
            running.write(task.folder)
            process = TrainerProcess(
                _command(task),
                output=output,
                environment={**environment, **_allocator(task, environment)},
                folder=task.directory,
                keep_open=[lock.fileno()],
            )
            ended = process.wait(asked)
    except BaseException:
        if claim.is_ours():
            replace(running, state="pending").write(task.folder)
        raise
    if not claim.is_ours():
        return replace(running, reason="another command took it over")
    status = _conclude(task, running, ended, read_log_tail(log, start))
    status.write(task.folder)
    return status


def _allocator(task: Task, environment: Mapping[str, str]) -> dict[str, str]:
    return allocator_variables(environment, on_gpu=task.num_gpus > 0)


def _command(task: Task) -> list[str]:
    run = task.run
    command = [sys.executable, *task.trainer, "--resume", "--config-file", run.config_file]
    for module in run.imports:
        command += ["--import", module]
    for dataset in run.datasets_in(task.folder.parent):
        command += ["--dataset", dataset]
    for category in run.ignore_categories:
        command += ["--ignore-category", category]
    command += [f"--{flag}" for flag in run.trainer_flags]
    if task.num_gpus > 1:
        command += ["--num-gpus", str(task.num_gpus)]
    return [*command, *run.opts, "OUTPUT_DIR", str(task.folder)]


@contextlib.contextmanager
def _trainer_gone(folder: Path, urgency: Callable[[], Urgency]) -> Iterator[TextIO]:
    """
    Wait for a leftover trainer of the folder, then yield a lock for the new one.

    A trainer inherits the lock and holds it until it ends, even if its parent was killed. Without
    support for locks in the file system, the claim alone protects the folder.
    """
    with (folder / LOCK_FILE).open("w", encoding="utf-8") as lock:
        while urgency() is Urgency.GO_ON:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(POLL_S)
            except OSError:
                break
            else:
                break
        yield lock


def _conclude(task: Task, running: Status, ended: Ended, tail: tuple[str, ...]) -> Status:
    if ended.exit_code == 0:
        try:
            collect(task.run, task.folder, ended.peak_rss_mib).write(task.folder)
        except ValueError as error:
            reason = f"the trainer succeeded but left no result: {error}"
            return replace(running, state="failed", reason=reason, exit_code=0, log_tail=tail)
        return replace(running, state="done")
    if ended.stopped or ended.exit_code in {STOPPED, INTERRUPTED}:
        return replace(running, state="pending")
    reason = explain_failure(ended.exit_code, tail)
    return replace(running, state="failed", reason=reason, exit_code=ended.exit_code, log_tail=tail)


def collect(run: Run, folder: Path, peak_rss_mib: float) -> Result:
    """
    Return the result of a finished trainer from the files that it left.

    Raises:
        ValueError: a file is missing or damaged, there was no evaluation after training, or
            `env.json` names no classes.
    """
    metrics = read_metrics(folder).lines
    ap, ap_per_class = read_average_precision(metrics, run.iterations)
    environment = Environment.read(folder)
    if environment is None or not environment.test or environment.test[0].classes is None:
        raise ValueError(f"{folder / ENVIRONMENT_FILE} has no classes of the test set")
    _, *others = dict.fromkeys(data.name for data in environment.test)
    classes = environment.test[0].classes
    gpu_memory_mib = read_peak_gpu_memory_mib(folder)
    return Result(
        arm=run.arm,
        seed=run.seed,
        ap=ap,
        ap_per_class={name: ap_per_class.get(name) for name in classes},
        iterations=run.iterations,
        iteration_s=read_iteration_s(metrics),
        peak_memory_mib=peak_rss_mib if gpu_memory_mib is None else gpu_memory_mib,
        config_hash=run.config_hash,
        versions=environment.versions,
        ap_of_others={
            name: read_average_precision(metrics, run.iterations, name)[0] for name in others
        },
    )
