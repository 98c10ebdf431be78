"""Launcher that starts one process for each GPU, and ends all of them when one fails."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from ..refusals import CommandError
from .process_group import Rank, place_in_environment, process_group
from .ranks import run_ranks

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
    Call ``main_func`` in several processes, with the interface of :func:`detectron2.engine.launch`.

    It differs from Detectron2's function:

    - without CUDA the processes train on the CPU, through gloo, and share its cores;
    - under torchrun, the processes that torchrun started do the training;
    - a process that raises or dies ends all others within seconds, and this one with its exit code;
    - SIGTERM, SIGUSR1 and SIGINT go to all processes. They may take their time to end, unless they
      are asked a second time. No process outlives this one.

    Args:
        main_func: called as `main_func(*args)` in each process. It and ``args`` must be importable
            (in one process, anything is allowed).
        num_gpus_per_machine: processes per machine, each with its own GPU if CUDA is available. 0
            or 1 on one machine: ``main_func`` is called in this process.
        num_machines: >= 1; `launch` is called on each machine.
        machine_rank: 0..num_machines - 1.
        dist_url: meeting point of the processes, e.g. "tcp://machine0:29500". None or "auto": a
            free port, on one machine only.
        timeout: maximum time that a process waits for another one before it raises.

    Raises:
        CommandError: there are more processes than GPUs, several machines have no meeting point, a
            number is invalid, or it differs from torchrun's.
        SystemExit: a process failed, and its traceback is on stderr. The code is 1 if it raised,
            its own code if it exited, and 128 + the signal number if a signal killed it. Or all
            processes were asked to end (143 for SIGTERM).
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
        run_ranks(places, (meeting_point, timeout, main_func, tuple(args)))


def _places_on(machine_rank: int, local_size: int, num_machines: int) -> list[Rank]:
    first, world_size = machine_rank * local_size, num_machines * local_size
    return [Rank(first + local, world_size, local, local_size) for local in range(local_size)]


def _check_agrees_with_torchrun(place: Rank, num_gpus_per_machine: int) -> None:
    if num_gpus_per_machine not in {1, place.local_size}:  # 1 is the command line's default
        raise CommandError(
            f"{num_gpus_per_machine} processes per machine requested, but torchrun started "
            f"{place.local_size}: pass the number only to torchrun (--nproc-per-node)"
        )
    _check_gpus(place.local_size)


def _check_numbers(num_gpus_per_machine: int, num_machines: int, machine_rank: int) -> None:
    if num_gpus_per_machine < 0:
        raise CommandError(f"the number of GPUs must be >= 0, got {num_gpus_per_machine}")
    if num_machines < 1:
        raise CommandError(f"the number of machines must be >= 1, got {num_machines}")
    if not 0 <= machine_rank < num_machines:
        raise CommandError(
            f"the rank of a machine must be in 0..{num_machines - 1}, got {machine_rank}"
        )
    if num_machines > 1 and num_gpus_per_machine == 0:
        raise CommandError(f"{num_machines} machines require 1 or more processes each, got 0")
    _check_gpus(num_gpus_per_machine)


def _check_gpus(processes: int) -> None:
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise CommandError(
            f"{processes} GPUs requested on this machine, which has {torch.cuda.device_count()}"
        )


@contextlib.contextmanager
def _meeting_point(dist_url: str | None, num_machines: int) -> Iterator[str | int]:
    """Yield a URL, or the port of a store in this process, so that no port must be guessed."""
    if dist_url not in {None, "auto"}:
        if num_machines > 1 and dist_url.startswith("file://"):
            logger.warning(f"{dist_url}: file:// is not reliable on several machines, use tcp://")
        yield dist_url
        return
    if num_machines > 1:
        raise CommandError(
            f"{num_machines} machines require a meeting point: pass the same --dist-url "
            f"tcp://HOST:PORT to all, where HOST is the machine of rank 0; got {dist_url!r}"
        )
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield store.port
