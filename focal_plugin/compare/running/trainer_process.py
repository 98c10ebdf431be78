"""Trainer as a process that does not outlive its parent."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import IO, NamedTuple

STARTER = Path(__file__).with_name("die_with_parent.py")
POLL_S = 0.2
STOP_S = 30.0
"""Seconds that a trainer has to finish its step and save a checkpoint."""


class Urgency(IntEnum):
    """Request to something that runs."""

    GO_ON = 0
    STOP = 1
    KILL = 2


class Ended(NamedTuple):
    """
    End of a process.

    Attributes:
        exit_code: exit code; negative for the signal that ended the process.
        peak_rss_mib: largest resident set.
        stopped: True if the process was asked to stop.
    """

    exit_code: int
    peak_rss_mib: float
    stopped: bool


class TrainerProcess:
    """
    Command in its own session, so that Ctrl-C reaches only its parent, which passes it on.

    The thread that creates this object must also wait for it, because the process ends with that
    thread.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: IO[bytes],
        environment: Mapping[str, str],
        folder: Path,
        keep_open: Sequence[int],
    ) -> None:
        """
        Start the process.

        Args:
            output: file for standard output and standard error.
            folder: working directory.
            keep_open: file descriptors that the process inherits.
        """
        starter = [sys.executable, "-I", "-S", str(STARTER), str(os.getpid())]
        self._process = subprocess.Popen(
            [*starter, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
            pass_fds=keep_open,
        )
        self._end_event = _EndEvent(self._process.pid)

    def wait(self, urgency: Callable[[], Urgency]) -> Ended:
        """
        Wait until the process has ended, by itself or on request of ``urgency``.

        A request sends SIGTERM, on which the trainer saves a checkpoint. SIGKILL follows after half
        a minute, or as soon as ``urgency`` asks for it. Any exception also stops the process.
        """
        asked: float | None = None
        try:
            while (ended := self._poll(stopped=asked is not None)) is None:
                wanted = urgency()
                if wanted is not Urgency.GO_ON and asked is None:
                    asked = time.monotonic()
                    self._signal(signal.SIGTERM)
                if wanted is Urgency.KILL or (asked and time.monotonic() - asked > STOP_S):
                    self._signal(signal.SIGKILL)
                self._end_event.wait(POLL_S)
        except BaseException:
            self._end()
            raise
        finally:
            self._end_event.close()
        return ended

    def _poll(self, *, stopped: bool) -> Ended | None:
        pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if not pid:
            return None
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._signal(signal.SIGKILL)  # ends leftover processes, such as data workers
        return Ended(self._process.returncode, usage.ru_maxrss / 1024, stopped)

    def _end(self) -> None:
        if self._process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=STOP_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class _EndEvent:
    """End of a child process, so that the next run starts at once and not at the next look."""

    def __init__(self, pid: int) -> None:
        self._file: int | None = None
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # Linux before 5.3, or a sandbox
                self._file = os.pidfd_open(pid)

    def wait(self, timeout_s: float) -> None:
        """Wait for the end, at most for ``timeout_s`` seconds."""
        if self._file is None:
            time.sleep(timeout_s)
            return
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        poll.poll(1000 * timeout_s)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
