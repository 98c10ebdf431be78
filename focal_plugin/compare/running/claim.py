"""
Claims: at most one owner per run folder, on any number of machines that share it.

A claim is a file `claim.<generation>` in the folder. The command that creates the newest generation
owns the folder. Only the owner writes that file, and no claim file is ever deleted.

The next generation may be created once the newest one is released or stale. The file is created
exclusively, so exactly one command wins. The owner regularly increments a counter in its file, its
heartbeat. A claim is stale if an observer sees no increment for some time. The observer measures
the time with its own monotonic clock, so wrong or adjusted system clocks do no harm.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ...files import write_json
from ...json_file import as_type, undamaged

CLAIM_FILE = re.compile(r"claim\.([0-9]+)")
BEAT_S = 5.0
EXPIRY_S = 60.0


@dataclass(frozen=True)
class Lease:
    """
    Timing of claims.

    Attributes:
        beat_s: seconds between two heartbeats of an owner.
        expiry_s: seconds without a heartbeat after which a claim is stale. It must exceed the time
            that a network file system caches a directory, and be many times ``beat_s``.
    """

    beat_s: float = BEAT_S
    expiry_s: float = EXPIRY_S


LEASE = Lease()


@dataclass(frozen=True)
class Holder:
    """
    Content of a claim file.

    Attributes:
        machine: scope of the process id: boot of the computer, and container.
        started: start time of the process, which tells it from a later one with the same id.
        beat: counter of the heartbeat; -1 while the file is being written.
    """

    generation: int
    host: str = "an unknown machine"
    machine: str = ""
    pid: int = 0
    started: str = ""
    beat: int = -1
    released: bool = False

    def __str__(self) -> str:
        if self.beat < 0:
            return f"an unknown process: claim.{self.generation} is damaged or being written"
        return f"process {self.pid} on {self.host}"


class HeldError(RuntimeError):
    """Error for a folder that already has an owner, ``holder``."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(f"held by {holder}")
        self.holder = holder


class Claim:
    """
    Ownership of a folder until it is released or lost.

    :attr:`lost` is set as soon as another command takes the folder over, or if no heartbeat could
    be written for :attr:`Lease.expiry_s`.
    """

    def __init__(self, folder: Path, holder: Holder, lease: Lease) -> None:
        self.lost = threading.Event()
        self._folder = folder
        self._holder = holder
        self._lease = lease
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def is_ours(self) -> bool:
        """Return True if the folder has no newer claim; this reads the folder."""
        if not self.lost.is_set() and _newest_generation(self._folder) > self._holder.generation:
            self.lost.set()
        return not self.lost.is_set()

    def release(self) -> None:
        """Release the folder, so that any command can take it at once."""
        self._ended.set()
        self._thread.join()
        if self.is_ours():
            self._write(replace(self._holder, released=True))

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _live(self) -> None:
        written = time.monotonic()
        while not self._ended.wait(self._lease.beat_s):
            try:
                if not self.is_ours():
                    return
                self._holder = replace(self._holder, beat=self._holder.beat + 1)
                self._write(self._holder)
                written = time.monotonic()
            except OSError:  # the file system may come back
                if time.monotonic() - written > self._lease.expiry_s:
                    self.lost.set()
                    return

    def _write(self, holder: Holder) -> None:
        write_json(_file(self._folder, holder.generation), _content(holder))


class Observer:
    """Observer of the claims of one folder; it is polled, and takes no claim itself."""

    def __init__(self, folder: Path, lease: Lease = LEASE) -> None:
        self._folder = folder
        self._lease = lease
        self._seen: tuple[int, int] | None = None
        self._since = 0.0

    def holder(self) -> Holder | None:
        """Return the owner, or None if any command may take the folder."""
        newest = read_newest(self._folder)
        if newest is None or newest.released or self._is_stale(newest):
            return None
        return newest

    def stale_generation(self) -> int | None:
        """Return the generation that :func:`take` may replace because it is stale, or None."""
        newest = read_newest(self._folder)
        if newest is None or newest.released or not self._is_stale(newest):
            return None
        return newest.generation

    def _is_stale(self, newest: Holder) -> bool:
        seen, now = (newest.generation, newest.beat), time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since > self._lease.expiry_s or _is_dead(newest)


def take(folder: Path, *, stale: int | None = None, lease: Lease = LEASE) -> Claim:
    """
    Claim ``folder``, which must exist.

    Args:
        stale: generation that an :class:`Observer` found to be stale.

    Raises:
        HeldError: another command owns the folder, or has just claimed it.
    """
    newest = read_newest(folder)
    is_free = newest is None or newest.released or newest.generation == stale
    if newest is not None and not is_free and not _is_dead(newest):
        raise HeldError(newest)
    holder = _myself(newest.generation + 1 if newest else 1)
    file = _file(folder, holder.generation)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(json.dumps(_content(holder)))
    except FileExistsError as error:
        raise HeldError(read_newest(folder) or holder) from error
    return Claim(folder, holder, lease)


def read_newest(folder: Path) -> Holder | None:
    """Return the newest claim, released or not; None if there never was one."""
    generation = _newest_generation(folder)
    if generation == 0:
        return None
    file = _file(folder, generation)
    try:
        content: Any = undamaged(file, lambda: json.loads(file.read_bytes())) or {}
        holder: Holder = as_type(Holder, {**content, "generation": generation})
    except (ValueError, TypeError):  # just created, damaged, or its owner died while creating it
        return Holder(generation)
    return holder


def _newest_generation(folder: Path) -> int:
    try:
        found = [CLAIM_FILE.fullmatch(name) for name in os.listdir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return max((int(match[1]) for match in found if match), default=0)


def _file(folder: Path, generation: int) -> Path:
    return folder / f"claim.{generation}"


def _content(holder: Holder) -> dict[str, Any]:
    content = asdict(holder)
    del content["generation"]
    return content


def _is_dead(holder: Holder) -> bool:
    """Return True if the owner was a process of this machine that no longer exists."""
    here = _machine()
    if not here or holder.machine != here:
        return False
    return _start_of(holder.pid) != holder.started


def _myself(generation: int) -> Holder:
    pid = os.getpid()
    return Holder(generation, socket.gethostname(), _machine(), pid, _start_of(pid) or "", beat=0)


def _machine() -> str:
    """Return the boot id and the process namespace; "" if the system is not Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """Return the start time of a process, in ticks since boot; None if it does not exist."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the command name before it may contain spaces
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started
