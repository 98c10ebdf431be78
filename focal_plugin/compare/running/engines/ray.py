"""
Engine that runs tasks on Ray, on this machine or on a cluster that shares the folder of the runs.

If the worker or node of a task dies, Ray retries the task, possibly on another node, and the run
resumes.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...runs.status import Status
from ..run_one import Task, run_one
from ..trainer_process import Urgency
from .base import Options
from .remote import StopFile, import_extra, settings
from .resources import divide, thread_variables, usable_processors, visible_gpus

MAX_RETRIES = 10
START_ATTEMPTS = 3  # Ray times out after 30 s, which may be too short if all processors are busy
OBJECT_STORE_BYTES = 80 << 20  # the minimum of Ray; tasks exchange very little


class RayEngine:
    """Engine with one Ray task per run."""

    poll_s = 0.0  # a look costs nothing

    def __init__(self, options: Options, folder: Path) -> None:
        """
        Start Ray, or connect to a cluster.

        Raises:
            ImportError: Ray is not installed.
            ConnectionError: there is no Ray cluster at the address.
        """
        # Turns off usage reports; this must precede the import
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray = import_extra("ray", "ray")
        self._temporary: str | None = None
        self._stop_file = StopFile(folder)
        self._handles: list[_RayHandle] = []
        if options.address is None:
            self._cpus, self._gpus = self._start(options)
        else:
            self._cpus, self._gpus = self._connect(options, options.address)
        self._variables = {**settings(), **thread_variables(self._cpus)}

    def submit(self, tasks: Sequence[Task]) -> list[_RayHandle]:
        train = self._ray.remote(_train).options(
            num_cpus=self._cpus, num_gpus=self._gpus, max_retries=MAX_RETRIES
        )
        num_gpus = int(self._gpus)
        references = [
            train.remote(replace(task, num_gpus=num_gpus), self._variables, self._stop_file)
            for task in tasks
        ]
        handles = [_RayHandle(self._ray, reference) for reference in references]
        self._handles += handles
        return handles

    def stop(self, urgency: Urgency) -> None:
        self._stop_file.ask(urgency)
        if urgency is Urgency.KILL:
            for handle in self._handles:
                handle.kill()

    def close(self) -> None:
        self._ray.shutdown()
        self._stop_file.remove()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _start(self, options: Options) -> tuple[int, float]:
        gpus = visible_gpus()
        division = divide(options, gpus, usable_processors())
        self.description = f"its own instance, {division.jobs} run(s) at a time, "
        self.description += f"{division.threads} thread(s) each"
        try:
            self._start_instance(division.jobs * division.threads, len(gpus))
        except BaseException:
            self.close()
            raise
        return division.threads, division.gpus_per_run

    def _start_instance(self, cpus: int, gpus: int) -> None:
        # Not below the folder of the runs, because socket paths must be short
        self._temporary = tempfile.mkdtemp(prefix="focal_ray_")
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self._init(
                    num_cpus=cpus,
                    num_gpus=gpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,  # hides the messages at the start
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=self._temporary,
                )
                return
            except Exception:  # "timed out during startup" has no specific type
                self._ray.shutdown()
                if attempt == START_ATTEMPTS:
                    raise

    def _init(self, **options: Any) -> None:
        """Initialize Ray without its handler of SIGTERM, which would end this process at once."""
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self._ray.init(**options)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)

    def _connect(self, options: Options, address: str) -> tuple[int, float]:
        if options.jobs is not None:
            raise ValueError(
                "a Ray cluster runs as many tasks as fit: set the processors per run instead of "
                "the number of jobs"
            )
        self._init(address=address, log_to_driver=False)
        cpus = options.cpus_per_run or 1
        gpus = options.gpus_per_run
        if gpus is None:
            gpus = float(self._ray.cluster_resources().get("GPU", 0) > 0)
        self.description = f"{address}, {cpus} thread(s) and {gpus:g} GPU(s) for each run"
        return cpus, gpus


class _RayHandle:
    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray = ray
        self._reference = reference
        self._future = reference.future()  # to ask Ray for each of many tasks would be slow

    def done(self) -> bool:
        return bool(self._future.done())

    def result(self) -> Status:
        return self._future.result()

    def kill(self) -> None:
        """Kill the task with its worker; the trainer does not outlive the worker."""
        self._ray.cancel(self._reference, force=True)


def _train(task: Task, variables: dict[str, str], stop_file: StopFile) -> Status:
    # os.environ names the GPUs that Ray assigned to this worker
    return run_one(task, environment={**os.environ, **variables}, urgency=stop_file.urgency)
