"""Sweep over the runs of a comparison; it resumes, and shares the runs with other sweeps."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from ..plan.comparison import Run
from ..runs.status import Status, StatusReader
from .claim import Observer
from .engines import Engine, Handle, Options, make_engine
from .failure import DISK_FULL
from .progress import Progress, RunState
from .run_one import Task
from .trainer_process import Urgency

POLL_S = 0.2
LOOK_S = 1.0
"""Seconds between two looks into the folders of unsettled runs."""

MAX_LOST = 3
"""Number of losses in transit, such as by a dead machine, after which a run has failed."""

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_KEYSTROKE_S = 0.5
STOPPING = {
    Urgency.STOP: "stopping the running trainers; press Ctrl-C again to kill them",
    Urgency.KILL: "killing the running trainers",
}


class SweepInterruptedError(Exception):
    """Error for a sweep that a signal ended; the same command resumes it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"interrupted by {number.name}")
        self.exit_code = 128 + number


def run_all(
    runs: Sequence[Run],
    folder: Path,
    options: Options | None = None,
    *,
    stream: TextIO | None = None,
) -> list[Status]:
    """
    Train the unfinished runs.

    A failed run does not stop the others, unless the disk is full. The sweep waits for runs that
    another sweep trains, and takes them over if the other sweep dies.

    Args:
        folder: folder of the comparison, with one subfolder per run.
        stream: output of the progress, default: standard error.

    Returns:
        One status per run. Every run is done or failed, unless the disk is full.

    Raises:
        SweepInterruptedError: on Ctrl-C, SIGTERM or SIGHUP, after all running processes have ended.
        ValueError: the options exceed what the machine has.
        ImportError: the engine is not installed.
    """
    options = options or Options()
    folder = folder.absolute()
    tasks = [_task(run, folder, options) for run in runs]
    progress = Progress([(task.run, task.folder) for task in tasks], stream or sys.stderr)
    statuses = [Status.read(task.folder) for task in tasks]
    if all(task.is_settled(status) for task, status in zip(tasks, statuses, strict=True)):
        progress.update([RunState(status.state, status.reason or "") for status in statuses])
        progress.close()
        return statuses
    try:
        engine = make_engine(options, folder)
    except KeyboardInterrupt as error:
        raise SweepInterruptedError(signal.SIGINT) from error
    # After the engine is made, because Ray installs signal handlers
    with _interrupts() as interrupts:
        try:
            progress.note(f"{options.engine}: {engine.description}")
            return _Sweep(tasks, engine, progress, interrupts).run()
        finally:
            progress.close()
            engine.close()


def _task(run: Run, folder: Path, options: Options) -> Task:
    own = folder / run.id
    return Task(
        run=run,
        folder=own,
        directory=Path.cwd(),
        retry=Status.read(own).attempts if options.retry_failed else None,
        lease=options.lease,
        trainer=options.trainer,
    )


@dataclass
class _Entry:
    """Run of a sweep with its state."""

    task: Task
    status: StatusReader
    observer: Observer
    state: RunState
    handle: Handle | None = None
    settled: Status | None = None
    attempts: int = 0  # attempts at the time of submission
    lost: int = 0


class _Interrupts:
    """Urgency that the received signals ask for."""

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self.urgency = Urgency.GO_ON
        self._since = 0.0

    def receive(self, number: int, _: object) -> None:
        """
        Handle a signal: the first one stops the sweep, a second one kills it.

        A SIGHUP does not count as the second one, because the kernel and a shell both send it. Nor
        does a signal that comes so soon that it belongs to the same keystroke.
        """
        if self.number is None:
            self.number, self.urgency = signal.Signals(number), Urgency.STOP
            self._since = time.monotonic()
        elif number != signal.SIGHUP and time.monotonic() - self._since > SAME_KEYSTROKE_S:
            self.urgency = Urgency.KILL


class _Sweep:
    def __init__(
        self,
        tasks: Sequence[Task],
        engine: Engine,
        progress: Progress,
        interrupts: _Interrupts,
    ) -> None:
        self._engine = engine
        self._progress = progress
        self._interrupts = interrupts
        self._disk_full = False
        self._looked = -LOOK_S
        self._polled = -engine.poll_s
        self._entries = [
            _Entry(
                task,
                StatusReader(task.folder),
                Observer(task.folder, task.lease),
                RunState("waiting"),
            )
            for task in tasks
        ]

    def run(self) -> list[Status]:
        told = Urgency.GO_ON
        while True:
            self._receive()
            if self._urgency() is not told:
                told = self._urgency()
                self._progress.note(STOPPING[told])
                self._engine.stop(told)
            self._look()
            self._progress.update([entry.state for entry in self._entries])
            waited_for = [entry for entry in self._entries if not entry.settled]
            if told is not Urgency.GO_ON:
                waited_for = [entry for entry in waited_for if entry.handle]
            if not waited_for:
                break
            time.sleep(POLL_S)
        unfinished = not all(entry.settled for entry in self._entries)
        if unfinished and self._interrupts.number is not None:
            raise SweepInterruptedError(self._interrupts.number)
        return [entry.settled or Status.read(entry.task.folder) for entry in self._entries]

    def _urgency(self) -> Urgency:
        return max(self._interrupts.urgency, Urgency.STOP if self._disk_full else Urgency.GO_ON)

    def _receive(self) -> None:
        """Take over the results of the engine."""
        if time.monotonic() - self._polled < self._engine.poll_s:
            return
        self._polled = time.monotonic()
        for entry in self._entries:
            if entry.handle is None or not entry.handle.done():
                continue
            handle, entry.handle = entry.handle, None
            entry.state = RunState("waiting")
            stops = self._urgency() is not Urgency.GO_ON
            try:
                status = handle.result()
            except Exception as error:
                self._disk_full |= isinstance(error, OSError) and error.errno == errno.ENOSPC
                if not stops:
                    self._lose(entry, f"{type(error).__name__}: {_last_line(str(error))}")
                continue
            if entry.task.is_settled(status):
                self._settle(entry, status)
            elif status.state == "pending" and not stops:
                self._lose(entry, "it was returned untrained")

    def _lose(self, entry: _Entry, reason: str) -> None:
        entry.lost += 1
        self._progress.note(f"{entry.task.run.name}: lost in transit ({reason})")
        if entry.lost == MAX_LOST:
            self._settle(entry, Status("failed", f"lost {MAX_LOST} times; {reason}"))

    def _settle(self, entry: _Entry, status: Status) -> None:
        reason = status.reason or ""
        entry.settled = status
        entry.state = RunState(status.state, reason)
        self._disk_full |= status.state == "failed" and reason.startswith(DISK_FULL)

    def _look(self) -> None:
        """Look into the folders of the unsettled runs, and submit the runs without an owner."""
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        free = []
        for entry in self._entries:
            if entry.settled:
                continue
            status = entry.status.read()
            if entry.handle:
                if status.attempts > entry.attempts and status.state != "pending":
                    entry.state = RunState(status.state, status.reason or "")
            elif entry.task.is_settled(status):
                self._settle(entry, status)
            elif holder := entry.observer.holder():
                entry.state = RunState("elsewhere", str(holder))
            else:
                entry.attempts = status.attempts
                free.append(entry)
        if free and self._urgency() is Urgency.GO_ON:
            self._submit(free)

    def _submit(self, entries: Sequence[_Entry]) -> None:
        tasks = [replace(x.task, stale=x.observer.stale_generation()) for x in entries]
        for entry, handle in zip(entries, self._engine.submit(tasks), strict=True):
            entry.handle = handle
            entry.state = RunState("waiting")


@contextlib.contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    """
    Record signals instead of ending the process.

    Signals that are already ignored, as under `nohup` or in the background of a shell, stay
    ignored. Only the main thread can install handlers.
    """
    interrupts = _Interrupts()
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, interrupts.receive)
    try:
        yield interrupts
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "").strip()
