"""Starts one process for each GPU, and ends them all when one of them fails."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, NoReturn

import torch
import torch.multiprocessing
from detectron2.utils import comm
from torch import distributed

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT = timedelta(minutes=30)
FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What a user, a terminal or a scheduler sends to end a training."""
STOPPED = frozenset(128 + number for number in FORWARDED)
"""Exit codes of a process that was asked to end, and did."""
SAME_REQUEST_S = 1.0
"""Signals that are no further apart are one request: see :class:`StopRequests`."""
GRACE_S = 5.0
"""What processes have for their end once one of them has failed, or the user insists."""

_START_METHOD = "spawn"  # CUDA does not survive a fork
_SETTLE_S = 0.5  # a process that was killed may be gone only after others miss it
_POLL_S = 0.5
_TEXT_CHARS = 15_000  # fits into a pipe that nobody reads
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class StopRequests:
    """
    Counts how often somebody asked a process to end.

    One request arrives as several signals: terminals, schedulers and `timeout` signal every process
    of a job, and the one that started the others passes it on to them.

    Attributes:
        count: requests so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last = -math.inf

    def is_new(self) -> bool:
        """To be called by the handler of a signal: whether it is a request of its own."""
        now = time.monotonic()
        if now - self._last < SAME_REQUEST_S:
            return False
        self._last = now
        self.count += 1
        return True


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
    place = _place_in_environment()
    if place is not None:
        _check_agrees_with_torchrun(place, num_gpus_per_machine)
        with _process_group(place, "env://", timeout):
            main_func(*args)
        return
    _check_numbers(num_gpus_per_machine, num_machines, machine_rank)
    if num_gpus_per_machine * num_machines <= 1:
        main_func(*args)
        return
    with _meeting_point(dist_url, num_machines) as meeting_point:
        places = _places_on(machine_rank, num_gpus_per_machine, num_machines)
        _run_all(places, (meeting_point, timeout, main_func, tuple(args)))


@dataclass(frozen=True)
class _Place:
    """Which of all processes one is."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def _places_on(machine_rank: int, local_size: int, num_machines: int) -> list[_Place]:
    first, world_size = machine_rank * local_size, num_machines * local_size
    return [_Place(first + local, world_size, local, local_size) for local in range(local_size)]


def _place_in_environment() -> _Place | None:
    """What torchrun told this process; None if nobody did."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not all(name in os.environ for name in names):
        return None
    return _Place(*(int(os.environ[name]) for name in names))


def _check_agrees_with_torchrun(place: _Place, num_gpus_per_machine: int) -> None:
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


class _Ending(NamedTuple):
    """What a process says before it fails, or stops."""

    moment_ns: int  # of a clock that all processes of a machine share
    exit_code: int
    text: str  # "": none


class _Rank:
    """A process that trains, seen from the one that started it."""

    def __init__(self, place: _Place, rest: tuple[Any, ...]) -> None:
        context = torch.multiprocessing.get_context(_START_METHOD)
        self.place = place
        self.ending: _Ending | None = None
        self.ended_by_us = False
        self._report: Connection | None
        self._report, report_of_rank = context.Pipe(duplex=False)
        self.process = context.Process(target=_run_rank, args=(report_of_rank, place, *rest))
        self.process.start()
        report_of_rank.close()

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """As a shell gives it: 128 + number for a signal. None: it has not ended yet."""
        if self.ending is not None:
            return self.ending.exit_code
        code = self.process.exitcode
        return 128 - code if code is not None and code < 0 else code

    @property
    def stopped(self) -> bool:
        """It ended as it was asked to."""
        return self.ending is not None and self.exit_code in STOPPED and not self.ended_by_us

    @property
    def failed(self) -> bool:
        """It did not end well, and nobody asked it to."""
        return self.exit_code not in {None, 0} and not self.stopped and not self.ended_by_us

    def listen(self) -> None:
        """Take its last words, if they are there."""
        if self._report is not None and self._report.poll():
            with contextlib.suppress(EOFError, OSError):  # it had none
                self.ending = self._report.recv()
            self._report = None

    def events(self) -> list[Any]:
        """What becomes ready when it ends, or says that it will."""
        return [self.process.sentinel, *([] if self._report is None else [self._report])]

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def describe(self) -> str:
        who = f"rank {self.place.rank} (process {self.process.pid})"
        if self.ending is not None and self.ending.text:
            return f"{who} failed:\n{self.ending.text.rstrip()}"
        if self.ending is not None or self.process.exitcode >= 0:
            return f"{who} ended with exit code {self.exit_code}"
        name = signal.Signals(-self.process.exitcode).name
        hint = ", as happens where memory runs out" if name == "SIGKILL" else ""
        return f"{who} was killed by {name}{hint}"


def _run_all(places: list[_Place], rest: tuple[Any, ...]) -> None:
    """Start the processes, wait for all, and leave as :func:`launch` says."""
    ranks: list[_Rank] = []
    try:
        with _Forwarding() as forwarding:
            for place in places:
                ranks.append(_Rank(place, rest))
            forwarding.begin(ranks)
            causes = _watch(ranks, forwarding)
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.join()
    if causes:
        _leave(causes)
    if any(rank.ended_by_us for rank in ranks):
        sys.exit(128 + forwarding.first)


def _leave(causes: list[_Rank]) -> NoReturn:
    first, *others = causes
    if not first.stopped:
        # what others raise is the same again, or that this one is gone
        told = [first, *(rank for rank in others if rank.ending is None)]
        sys.stderr.write("".join(f"\n{rank.describe()}\n" for rank in told))
    sys.exit(first.exit_code)


def _watch(ranks: list[_Rank], forwarding: _Forwarding) -> list[_Rank]:
    """
    Wait for all; once one has failed, or the user insists, no longer than the grace.

    Returns:
        the ones that did not end well, for reasons of their own: the one that took the others with
        it is the first.
    """
    causes: list[_Rank] = []
    deadline = math.inf
    while alive := [rank for rank in ranks if rank.alive]:
        wait([event for rank in alive for event in rank.events()], timeout=_POLL_S)
        if not causes and any(rank.failed for rank in _heard(ranks)):
            time.sleep(_SETTLE_S)
            causes = _causes(ranks)
            _end(ranks, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_S
        if forwarding.requests.count > 1:
            deadline = min(deadline, time.monotonic() + GRACE_S)
        if time.monotonic() >= deadline:
            _end(ranks, signal.SIGKILL)
    return causes or _causes(ranks)


def _causes(ranks: list[_Rank]) -> list[_Rank]:
    """
    A process that died without a word took the others with it, unless it was NCCL's watchdog that
    aborted it; of those that had something to say, the first one did.
    """

    def order(rank: _Rank) -> tuple[bool, bool, int]:
        aborted = rank.process.exitcode == -signal.SIGABRT
        return aborted, rank.ending is not None, rank.ending.moment_ns if rank.ending else 0

    return sorted((rank for rank in _heard(ranks) if rank.failed or rank.stopped), key=order)


def _heard(ranks: list[_Rank]) -> list[_Rank]:
    for rank in ranks:
        rank.listen()
    return ranks


def _end(ranks: list[_Rank], number: int) -> None:
    for rank in ranks:
        if rank.alive:
            rank.ended_by_us |= rank.ending is None
            rank.send(number)


class _Forwarding:
    """
    While entered, requests to stop go to the processes that train.

    Attributes:
        requests: how many there were.
        first: the signal of the first one.
    """

    def __init__(self) -> None:
        self.requests = StopRequests()
        self.first = int(signal.SIGTERM)
        self._ranks: list[_Rank] = []
        self._waiting: list[int] = []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Forwarding:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for number in FORWARDED:
                # one that is ignored (nohup, a shell's background job) stays so, in the ranks too
                if signal.getsignal(number) not in {None, signal.SIG_IGN}:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def begin(self, ranks: list[_Rank]) -> None:
        """From now on there are processes; what came before goes to them too."""
        self._ranks = ranks
        for number in self._waiting:
            self._send(number)

    def _receive(self, number: int, frame: Any) -> None:
        if self.requests.is_new():
            if self.requests.count == 1:
                self.first = number
            if self._ranks:
                self._send(number)
            else:
                self._waiting.append(number)

    def _send(self, number: int) -> None:
        for rank in self._ranks:
            rank.send(number)


def _run_rank(
    report: Connection,
    place: _Place,
    meeting_point: str | int,
    timeout: timedelta,
    main_func: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """What a process does; how it fails goes to the one that started it."""
    _die_with_parent()
    _interrupt_once()
    try:
        with _process_group(place, meeting_point, timeout):
            main_func(*args)
    except BaseException as error:
        exit_code, text = _read_error(error)
        if exit_code != 0:
            report.send(_Ending(time.monotonic_ns(), exit_code, text))
        sys.exit(exit_code)


def _read_error(error: BaseException) -> tuple[int, str]:
    """The exit code that Python would end with, and what it would write."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, ""
    if not isinstance(error, SystemExit):
        return 1, traceback.format_exc()[-_TEXT_CHARS:]
    if error.code is None or isinstance(error.code, int):
        return error.code or 0, ""
    return 1, str(error.code)[-_TEXT_CHARS:]


def _die_with_parent() -> None:
    """
    The kernel ends this process when the one that started it is gone, even if it waits for others
    in compiled code, where Python handles no signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died before
        sys.exit(1)


def _interrupt_once() -> None:
    """Ctrl-C of a terminal arrives twice: it must not interrupt what the first one set off."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    requests = StopRequests()

    def interrupt(number: int, frame: Any) -> None:
        if requests.is_new():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


@contextlib.contextmanager
def _process_group(place: _Place, meeting_point: str | int, timeout: timedelta) -> Iterator[None]:
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
            distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()


def _share_cores(processes: int) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def _join(backend: str, place: _Place, meeting_point: str | int, timeout: timedelta) -> None:
    if isinstance(meeting_point, str):
        where = {"init_method": meeting_point}
    else:
        where = {"store": distributed.TCPStore("127.0.0.1", meeting_point, timeout=timeout)}
    try:
        distributed.init_process_group(
            backend, rank=place.rank, world_size=place.world_size, timeout=timeout, **where
        )
    except Exception:
        logger.error(f"rank {place.rank} of {place.world_size} cannot meet at {meeting_point}")
        raise


def _make_local_group(place: _Place, timeout: timedelta) -> None:
    """The group of this machine, for Detectron2."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(place.local_size)
        return
    machine = place.rank // place.local_size
    for first in range(0, place.world_size, place.local_size):  # all processes make all groups
        ranks = list(range(first, first + place.local_size))
        group = distributed.new_group(ranks, timeout=timeout)
        if first == machine * place.local_size:
            comm._LOCAL_PROCESS_GROUP = group
