"""Division of a machine among the runs that train on it at the same time."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from .base import Options


@dataclass(frozen=True)
class Division:
    """
    Share of a machine for each run.

    Attributes:
        jobs: runs at a time.
        threads: threads of each run.
        gpus_per_run: number of GPUs of each run; a fraction if runs share one.
        gpus: GPUs of each run; () if none are assigned.
    """

    jobs: int
    threads: int
    gpus_per_run: float = 0.0
    gpus: tuple[tuple[str, ...], ...] = ()

    def __str__(self) -> str:
        text = f"{self.jobs} run(s) at a time, {self.threads} thread(s) each"
        if not self.gpus:
            return text
        return f"{text}, on GPU {' | '.join(','.join(slot) for slot in self.gpus)}"


def divide(options: Options, gpus: Sequence[str], processors: int) -> Division:
    """
    Divide GPUs and processors among the runs.

    More runs at a time than GPUs share them evenly, unless the options name the GPUs of each run.

    Raises:
        ValueError: the options exceed what the machine has.
    """
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {options.jobs}")
    gpus_per_run = _gpus_per_run(options, len(gpus))
    slots = _slots(gpus, gpus_per_run)
    jobs = options.jobs or len(slots) or 1
    if slots and jobs > len(slots):
        raise ValueError(
            f"{jobs} runs at a time require more than the {len(gpus)} available GPU(s); "
            "with fewer GPUs per run, such as 0.5, runs share one"
        )
    threads = options.cpus_per_run or max(1, processors // jobs)
    return Division(jobs, threads, gpus_per_run, slots[:jobs])


def visible_gpus() -> list[str]:
    """Return the GPUs that a child process would see, as names for CUDA_VISIBLE_DEVICES."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    # CUDA ignores everything after an invalid entry
    return list(takewhile(lambda name: name not in ("", "-1"), map(str.strip, given.split(","))))


def usable_processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment variables that limit the threads of a trainer."""
    return {"OMP_NUM_THREADS": str(threads)}


def _gpus_per_run(options: Options, available: int) -> float:
    asked = options.gpus_per_run
    if asked is None:
        return 1 / math.ceil((options.jobs or 1) / available) if available else 0.0
    if asked < 0 or (asked > 1 and asked != int(asked)):
        raise ValueError(f"GPUs per run must be a whole number, or between 0 and 1, got {asked}")
    if asked > available:
        raise ValueError(f"{asked:g} GPU(s) per run requested, but only {available} available")
    return asked


def _slots(gpus: Sequence[str], per_run: float) -> tuple[tuple[str, ...], ...]:
    if per_run == 0:
        return ()
    if per_run < 1:
        # one run on each GPU before any GPU gets a second one
        runs_per_gpu = int(1 / per_run + 1e-9)  # 1 / (1 / 49) is less than 49
        return tuple((gpu,) for _ in range(runs_per_gpu) for gpu in gpus)
    size = int(per_run)
    groups = range(0, len(gpus) - size + 1, size)
    return tuple(tuple(gpus[first : first + size]) for first in groups)
