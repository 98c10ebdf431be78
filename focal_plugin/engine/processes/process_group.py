"""The processes that train together: which one this is, and how it joins the others."""

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

from .stop_requests import STOPPED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Which of all processes one is."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def place_in_environment() -> Place | None:
    """What torchrun told this process; None if nobody did."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not all(name in os.environ for name in names):
        return None
    return Place(*(int(os.environ[name]) for name in names))


@contextlib.contextmanager
def process_group(place: Place, meeting_point: str | int, timeout: timedelta) -> Iterator[None]:
    """
    The processes know each other inside. After an error the group stays as it is: closing it may
    wait for the others, and would make them fail before this one has said why.
    """
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(place.local_rank)
    else:
        _share_cores(place.local_size)
    _join("nccl" if cuda else "gloo", place, meeting_point, timeout)
    try:
        _make_local_group(place, timeout)
        # without it, a collective may run into its timeout while other processes still start
        comm.synchronize()
        yield
    except SystemExit as end:
        if end.code in STOPPED:
            leave_process_group()
        raise
    leave_process_group()


def leave_process_group() -> None:
    """
    Nobody may hold the group any more: a thread of gloo's that lets go of its last tensor while
    Python ends aborts the process, and it is joined when the group goes.
    """
    comm._get_global_gloo_group.cache_clear()
    gc.collect()  # a model in a cycle, with the group in its DistributedDataParallel
    distributed.destroy_process_group()


def _share_cores(processes: int) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def _join(backend: str, place: Place, meeting_point: str | int, timeout: timedelta) -> None:
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
        logger.error(f"rank {place.rank} of {place.world_size} cannot meet at {meeting_point}")
        raise


def _make_local_group(place: Place, timeout: timedelta) -> None:
    """The group of this machine, for Detectron2."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(place.local_size)
        return
    # Detectron2's release 0.6 lacks that function.
    machine = place.rank // place.local_size
    for first in range(0, place.world_size, place.local_size):  # all processes make all groups
        ranks = list(range(first, first + place.local_size))
        group = distributed.new_group(ranks, timeout=timeout)
        if first == machine * place.local_size:
            comm._LOCAL_PROCESS_GROUP = group  # type: ignore[assignment]  # declared None
