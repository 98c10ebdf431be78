"""Starts one process for each GPU, and ends them all when one of them fails."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from .process_group import Place, place_in_environment, process_group
from .ranks import run_all

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: Sequence[Any] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """
    Same interface as :func:`detectron2.engine.launch`, but:

    - without CUDA the processes train on the CPU, through gloo, and share its cores;
    - under torchrun, which has started the processes already, they are the ones that train;
    - a process that raises or dies ends all others within seconds, and this one with its exit code;
    - SIGTERM, SIGUSR1 and SIGINT go to all processes, which may take their time to end unless they
      are asked a second time; and none of them outlives this one.

    Args:
        main_func: called as `main_func(*args)` in each process; importable, and so are ``args``
            (in one process, anything).
        num_gpus_per_machine: processes on each machine, each with a GPU of its own where there is
            CUDA; up to 1 on one machine: ``main_func`` is called in this process.
        num_machines: >= 1; `launch` is called on each of them.
        machine_rank: 0..num_machines - 1.
        dist_url: where the processes meet, e.g. "tcp://machine0:29500". None, "auto": a free port,
            on one machine.
        timeout: after which a process that waits for another one raises.

    Raises:
        ValueError: more processes than GPUs, several machines without a meeting point, a number
            that is not legal, or one that is not torchrun's.
        SystemExit: a process failed, after its traceback was written to stderr: 1 if it raised, its
            own code if it exited, 128 + the number of the signal that it died of. Or: all were
            asked to end (143 for SIGTERM).
    """
    place = place_in_environment()
    if place is not None:
        _check_agrees_with_torchrun(place, num_gpus_per_machine)
        with process_group(place, "env://", timeout):
            main_func(*args)
        return
    _check_numbers(num_gpus_per_machine, num_machines, machine_rank)
    if num_gpus_per_machine * num_machines <= 1:
        main_func(*args)
        return
    with _meeting_point(dist_url, num_machines) as meeting_point:
        places = _places_on(machine_rank, num_gpus_per_machine, num_machines)
        run_all(places, (meeting_point, timeout, main_func, tuple(args)))


def _places_on(machine_rank: int, local_size: int, num_machines: int) -> list[Place]:
    first, world_size = machine_rank * local_size, num_machines * local_size
    return [Place(first + local, world_size, local, local_size) for local in range(local_size)]


def _check_agrees_with_torchrun(place: Place, num_gpus_per_machine: int) -> None:
    if num_gpus_per_machine not in {1, place.local_size}:  # 1: the default of the command line
        raise ValueError(
            f"{num_gpus_per_machine} processes for each machine asked for, but torchrun started "
            f"{place.local_size}: give the number to torchrun (--nproc-per-node) only"
        )
    _check_gpus(place.local_size)


def _check_numbers(num_gpus_per_machine: int, num_machines: int, machine_rank: int) -> None:
    if num_gpus_per_machine < 0:
        raise ValueError(f"the number of GPUs must be >= 0, got {num_gpus_per_machine}")
    if num_machines < 1:
        raise ValueError(f"the number of machines must be >= 1, got {num_machines}")
    if not 0 <= machine_rank < num_machines:
        raise ValueError(
            f"the rank of a machine must be in 0..{num_machines - 1}, got {machine_rank}"
        )
    if num_machines > 1 and num_gpus_per_machine == 0:
        raise ValueError(f"{num_machines} machines with 0 processes each: ask for 1 or more")
    _check_gpus(num_gpus_per_machine)


def _check_gpus(processes: int) -> None:
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise ValueError(
            f"{processes} GPUs asked for on this machine, which has {torch.cuda.device_count()}"
        )


@contextlib.contextmanager
def _meeting_point(dist_url: str | None, num_machines: int) -> Iterator[str | int]:
    """A URL; or the port of a store that this process keeps, so that no port has to be guessed."""
    if dist_url not in {None, "auto"}:
        if num_machines > 1 and dist_url.startswith("file://"):
            logger.warning(f"{dist_url}: file:// is not reliable on several machines, tcp:// is")
        yield dist_url
        return
    if num_machines > 1:
        raise ValueError(
            f"{num_machines} machines need a place to meet: give the same --dist-url "
            f"tcp://HOST:PORT to all, HOST being the machine of rank 0; got {dist_url!r}"
        )
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield store.port
