"""Memory, processors and GPUs of this machine for a run."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import torch

from ..compare.running.engines import Options
from ..compare.running.engines.resources import divide, usable_processors, visible_gpus

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with the memory limit of a container, in bytes."""


class Machine(NamedTuple):
    """
    Share of this machine for a run of `focal-compare run`.

    Attributes:
        jobs: runs at a time.
        threads: threads of each run.
        device: "cuda" or "cpu".
        memory: bytes for a run: free memory of a GPU, or the share of the main memory.
    """

    jobs: int
    threads: int
    device: str
    memory: float


def this_machine(jobs: int | None = None) -> Machine:
    """
    Return what a run gets.

    Args:
        jobs: runs at a time, `--jobs` of that command. None: its default.

    Raises:
        ValueError: ``jobs`` exceeds what the machine has.
    """
    division = divide(Options(jobs=jobs), visible_gpus(), usable_processors())
    if torch.cuda.is_available():
        return Machine(division.jobs, division.threads, "cuda", torch.cuda.mem_get_info()[0])
    return Machine(division.jobs, division.threads, "cpu", main_memory() / division.jobs)


def busy_processors() -> float:
    """Return how many processors were busy in the last minute, this program included."""
    return os.getloadavg()[0]


def main_memory() -> float:
    """Return the main memory that is free, in bytes, at most the limit of the container."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, IndexError):
        # unlike the pages above, with what the system would give back
        line = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2]
        free = int(line.split()[0]) * 1024
    limits = []
    for name in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            limits.append(int(Path(name).read_text()))
    return float(min([free, *limits]))
