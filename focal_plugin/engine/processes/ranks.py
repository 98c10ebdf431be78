"""Start, supervision and shutdown of the processes of a job on this machine."""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, Final, NamedTuple, NoReturn

import torch.multiprocessing

from ...signals import JOB_SIGNALS
from ..refusals import REFUSED, Refusal
from .process_group import Rank, process_group
from .stop_requests import ENDED_ON_REQUEST, StopRequests

START_METHOD: Final = "spawn"
"""Start method of the processes; CUDA does not support fork."""
GRACE_S = 5.0
"""Seconds for processes to end after one has failed or the user insists."""
SETTLE_S = 0.5
"""Seconds to wait for failed processes: a killed one may be visible only after others miss it."""

_POLL_S = 0.5
_TEXT_CHARS = 15_000  # fits into a pipe without a reader
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _Ending(NamedTuple):
    """Report of a process before it fails or stops."""

    moment_ns: int  # from a clock that all processes of a machine share
    exit_code: int
    text: str  # "" for none


class _RankProcess:
    """A training process, from the view of its parent."""

    def __init__(self, place: Rank, rest: tuple[Any, ...]) -> None:
        context = torch.multiprocessing.get_context(START_METHOD)
        self.place = place
        self.ending: _Ending | None = None
        self.ended_by_us = False
        self._report: Connection | None
        self._report, report_of_rank = context.Pipe(duplex=False)
        workers_start_by = multiprocessing.get_start_method()
        self.process = context.Process(
            target=_run_rank, args=(report_of_rank, workers_start_by, place, *rest)
        )
        self.process.start()
        report_of_rank.close()

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """Return the exit code of a shell, 128 + number for a signal; None if still running."""
        if self.ending is not None:
            return self.ending.exit_code
        code = self.process.exitcode
        return 128 - code if code is not None and code < 0 else code

    @property
    def stopped(self) -> bool:
        """Return True if the process ended on request."""
        on_request = self.exit_code in ENDED_ON_REQUEST
        return self.ending is not None and on_request and not self.ended_by_us

    @property
    def failed(self) -> bool:
        """Return True if the process ended with an error and without a request."""
        return self.exit_code not in {None, 0} and not self.stopped and not self.ended_by_us

    def listen(self) -> None:
        """Receive the report of the process, if there is one."""
        if self._report is not None and self._report.poll():
            with contextlib.suppress(EOFError, OSError):  # no report
                self.ending = self._report.recv()
            self._report = None

    def events(self) -> list[Any]:
        """Return the objects that become ready when the process ends or reports."""
        return [self.process.sentinel, *([] if self._report is None else [self._report])]

    def send(self, number: int) -> None:
        assert self.process.pid is not None  # it has started
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def describe(self) -> str:
        who = f"rank {self.place.rank} (process {self.process.pid})"
        if self.ending is not None and self.ending.text:
            text = self.ending.text.rstrip()
            return text if self.exit_code == REFUSED else f"{who} failed:\n{text}"
        code = self.process.exitcode
        if self.ending is not None or code is None or code >= 0:
            return f"{who} ended with exit code {self.exit_code}"
        name = signal.Signals(-code).name
        hint = ", possibly because memory ran out" if name == "SIGKILL" else ""
        return f"{who} was killed by {name}{hint}"


def run_ranks(places: list[Rank], rest: tuple[Any, ...]) -> None:
    """Start the processes, wait for all, and exit as :func:`launch` documents."""
    ranks: list[_RankProcess] = []
    try:
        with _Forwarding() as forwarding:
            for place in places:
                ranks.append(_RankProcess(place, rest))
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


def _leave(causes: list[_RankProcess]) -> NoReturn:
    first, *others = causes
    if not first.stopped:
        # The others raise the same error, or that this process is gone.
        told = [first, *(rank for rank in others if rank.ending is None)]
        sys.stderr.write("".join(f"\n{rank.describe()}\n" for rank in told))
    sys.exit(first.exit_code)


def _watch(ranks: list[_RankProcess], forwarding: _Forwarding) -> list[_RankProcess]:
    """
    Wait for all processes, but only for the grace period after a failure or a second request.

    Returns:
        the processes that failed by themselves; the first one is the cause of the others' failure.
    """
    causes: list[_RankProcess] = []
    deadline = math.inf
    while alive := [rank for rank in ranks if rank.alive]:
        wait([event for rank in alive for event in rank.events()], timeout=_POLL_S)
        if not causes and any(rank.failed for rank in _heard(ranks)):
            time.sleep(SETTLE_S)
            causes = _causes(ranks)
            _end(ranks, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_S
        if forwarding.requests.count > 1:
            deadline = min(deadline, time.monotonic() + GRACE_S)
        if time.monotonic() >= deadline:
            _end(ranks, signal.SIGKILL)
    return causes or _causes(ranks)


def _causes(ranks: list[_RankProcess]) -> list[_RankProcess]:
    """
    Sort the processes that ended badly; the first one is the cause.

    A process that died without a report caused the failure of the others, unless NCCL's watchdog
    aborted it. Among processes with a report, the earliest report is the cause.
    """

    def order(rank: _RankProcess) -> tuple[bool, bool, int]:
        aborted = rank.process.exitcode == -signal.SIGABRT
        return aborted, rank.ending is not None, rank.ending.moment_ns if rank.ending else 0

    return sorted((rank for rank in _heard(ranks) if rank.failed or rank.stopped), key=order)


def _heard(ranks: list[_RankProcess]) -> list[_RankProcess]:
    for rank in ranks:
        rank.listen()
    return ranks


def _end(ranks: list[_RankProcess], number: int) -> None:
    for rank in ranks:
        if rank.alive:
            rank.ended_by_us |= rank.ending is None
            rank.send(number)


class _Forwarding:
    """
    Context that forwards stop requests to the training processes.

    Attributes:
        requests: counter of the requests.
        first: signal of the first request.
    """

    def __init__(self) -> None:
        self.requests = StopRequests()
        self.first = int(signal.SIGTERM)
        self._ranks: list[_RankProcess] = []
        self._waiting: list[int] = []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Forwarding:
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            for number in JOB_SIGNALS:
                # An ignored signal (nohup, a shell's background job) stays ignored, also in ranks.
                if signal.getsignal(number) not in {None, signal.SIG_IGN}:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def begin(self, ranks: list[_RankProcess]) -> None:
        """Forward signals to these processes from now on, including those received before."""
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
    workers_start_by: str,
    place: Rank,
    meeting_point: str | int,
    timeout: timedelta,
    main_func: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """
    Run one process, and report a failure to its parent.

    Its data workers start as in a single process. By default, a spawned process spawns its own
    workers, each of which imports everything again.
    """
    multiprocessing.set_start_method(workers_start_by, force=True)
    _die_with_parent()
    _interrupt_once()
    try:
        with process_group(place, meeting_point, timeout):
            main_func(*args)
    except BaseException as error:
        exit_code, text = _read_error(error)
        if exit_code != 0:
            report.send(_Ending(time.monotonic_ns(), exit_code, text))
        sys.exit(exit_code)


def _read_error(error: BaseException) -> tuple[int, str]:
    """Return Python's exit code for an error, and the text that Python would print."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, ""
    if not isinstance(error, SystemExit):
        return 1, traceback.format_exc()[-_TEXT_CHARS:]
    if isinstance(error, Refusal):
        return REFUSED, error.text[:_TEXT_CHARS]
    if error.code is None or isinstance(error.code, int):
        return error.code or 0, ""
    return 1, str(error.code)[-_TEXT_CHARS:]


def _die_with_parent() -> None:
    """
    Ask the kernel to end this process when its parent dies.

    This also works while the process waits in compiled code, where Python handles no signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died earlier
        sys.exit(1)


def _interrupt_once() -> None:
    """Ignore a second Ctrl-C: a terminal's arrives twice and must not interrupt the shutdown."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    requests = StopRequests()

    def interrupt(number: int, frame: Any) -> None:
        if requests.is_new():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
