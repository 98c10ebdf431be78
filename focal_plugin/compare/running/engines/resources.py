"""Dividing a machine among the runs that are trained on it at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from .base import Options


@dataclass(frozen=True)
class Division:
    """
    Attributes:
        jobs: runs at a time.
        threads: of each.
        gpus: the GPUs of each; () where none are handed out.
    """

    jobs: int
    threads: int
    gpus: tuple[tuple[str, ...], ...] = ()

    def __str__(self) -> str:
        text = f"{self.jobs} run(s) at a time, {self.threads} thread(s) each"
        if not self.gpus:
            return text
        return f"{text}, on GPU {' | '.join(','.join(slot) for slot in self.gpus)}"


def divide(options: Options, gpus: Sequence[str], processors: int) -> Division:
    """
    Raises:
        ValueError: more is asked for than there is.
    """
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {options.jobs}")
    slots = _slots(gpus, _gpus_per_run(options.gpus_per_run, len(gpus)))
    jobs = options.jobs or len(slots) or 1
    if slots and jobs > len(slots):
        raise ValueError(
            f"{jobs} runs at a time need more than the {len(gpus)} GPU(s) there are; "
            "fewer GPUs per run, such as 0.5, let runs share one"
        )
    threads = options.cpus_per_run or max(1, processors // jobs)
    return Division(jobs, threads, slots[:jobs])


def visible_gpus() -> list[str]:
    """What a process of this one would see: names for CUDA_VISIBLE_DEVICES."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    # as CUDA reads it: what is behind an invalid one is not seen
    return list(takewhile(lambda name: name not in ("", "-1"), map(str.strip, given.split(","))))


def usable_processors() -> int:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_variables(threads: int) -> dict[str, str]:
    """For the environment of a trainer."""
    return {"OMP_NUM_THREADS": str(threads)}


def _gpus_per_run(asked: float | None, available: int) -> float:
    if asked is None:
        return 1.0 if available else 0.0
    if asked < 0 or (asked > 1 and asked != int(asked)):
        raise ValueError(f"GPUs per run must be a whole number, or between 0 and 1, got {asked}")
    if asked > available:
        raise ValueError(f"{asked:g} GPU(s) per run are asked for, and there are {available}")
    return asked


def _slots(gpus: Sequence[str], per_run: float) -> tuple[tuple[str, ...], ...]:
    if per_run == 0:
        return ()
    if per_run < 1:
        # one run on each before any gets a second
        return tuple((gpu,) for _ in range(int(1 / per_run)) for gpu in gpus)
    size = int(per_run)
    groups = range(0, len(gpus) - size + 1, size)
    return tuple(tuple(gpus[first : first + size]) for first in groups)
