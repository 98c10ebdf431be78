"""Process group of a training: the rank of this process, and its connection to the others."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from detectron2.utils import comm
from torch import distributed

from .stop_requests import ENDED_ON_REQUEST

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rank:
    """Rank of a process among all processes."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def place_in_environment() -> Rank | None:
    """Return the rank that torchrun set in the environment, or None without torchrun."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not all(name in os.environ for name in names):
        return None
    return Rank(*(int(os.environ[name]) for name in names))


@contextlib.contextmanager
def process_group(place: Rank, meeting_point: str | int, timeout: timedelta) -> Iterator[None]:
    """
    Connect the processes inside the context.

    After an error the group stays open. Closing it may wait for the others, and they would fail
    before this process has reported its error.
    """
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(place.local_rank)
    else:
        _share_cores(place.local_size)
    _join("nccl" if cuda else "gloo", place, meeting_point, timeout)
    try:
        _make_local_group(place, timeout)
        # Otherwise a collective may time out while other processes still start.
        comm.synchronize()
        yield
    except SystemExit as end:
        if end.code in ENDED_ON_REQUEST:
            leave_process_group()
        raise
    leave_process_group()


def leave_process_group() -> None:
    """
    Close the process group.

    No object may hold the group afterwards. If a gloo thread releases its last tensor while Python
    exits, it aborts the process. Closing the group joins that thread.
    """
    comm._get_global_gloo_group.cache_clear()
    gc.collect()  # a model in a cycle holds the group in its DistributedDataParallel
    distributed.destroy_process_group()


def _share_cores(processes: int) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def _join(backend: str, place: Rank, meeting_point: str | int, timeout: timedelta) -> None:
    url, store = None, None
    if isinstance(meeting_point, str):
        url = meeting_point
    else:
        store = distributed.TCPStore("127.0.0.1", meeting_point, timeout=timeout)
    try:
        distributed.init_process_group(
            backend,
            init_method=url,
            store=store,
            rank=place.rank,
            world_size=place.world_size,
            timeout=timeout,
        )
    except Exception:
        logger.error(f"rank {place.rank} of {place.world_size} cannot connect to {meeting_point}")
        raise


def _make_local_group(place: Rank, timeout: timedelta) -> None:
    """Create the group of this machine, which Detectron2 uses."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(place.local_size)
        return
    # Detectron2 0.6 lacks that function.
    machine = place.rank // place.local_size
    for first in range(0, place.world_size, place.local_size):  # all processes create all groups
        ranks = list(range(first, first + place.local_size))
        group = distributed.new_group(ranks, timeout=timeout)
        if first == machine * place.local_size:
            comm._LOCAL_PROCESS_GROUP = group  # type: ignore[assignment]  # declared None
