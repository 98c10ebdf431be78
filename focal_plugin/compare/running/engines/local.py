"""Engine that runs tasks as processes of this machine."""

from __future__ import annotations

import os
import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ...runs.status import Status
from ..run_one import Task, run_one
from ..trainer_process import Urgency
from .base import Options
from .resources import divide, thread_variables, usable_processors, visible_gpus


class LocalEngine:
    """Pool of threads that each wait for one process; a free thread takes free GPUs."""

    poll_s = 0.0  # a look costs nothing

    def __init__(self, options: Options, folder: Path) -> None:
        division = divide(options, visible_gpus(), usable_processors())
        self.description = str(division)
        self._variables = thread_variables(division.threads)
        self._urgency = Urgency.GO_ON
        self._slots: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()
        for slot in division.gpus or ((),) * division.jobs:
            self._slots.put(slot)
        self._pool = ThreadPoolExecutor(division.jobs, thread_name_prefix="run")

    def submit(self, tasks: Sequence[Task]) -> list[Future[Status]]:
        return [self._pool.submit(self._run, task) for task in tasks]

    def stop(self, urgency: Urgency) -> None:
        self._urgency = urgency

    def close(self) -> None:
        self.stop(max(self._urgency, Urgency.STOP))
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, task: Task) -> Status:
        gpus = self._slots.get()
        try:
            environment = {**os.environ, **self._variables}
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            return run_one(
                replace(task, num_gpus=len(gpus)),
                environment=environment,
                urgency=lambda: self._urgency,
            )
        finally:
            self._slots.put(gpus)
