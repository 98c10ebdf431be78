"""
One owner for each run folder, on any number of machines that share it.

A claim is a file `claim.<generation>` in the folder. Whoever exclusively created the newest
generation is the owner, and nobody else writes that file; none is ever deleted. The next generation
may be created once the newest is released, or stale: however many try, exactly one wins. The owner
counts a number up in its file; a claim is stale where that number has stood still for a while by
the *observer's* monotonic clock, so that neither a wrong clock nor the jump of one matters.
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

CLAIM_FILE = re.compile(r"claim\.([0-9]+)")
BEAT_S = 5.0
EXPIRY_S = 60.0


@dataclass(frozen=True)
class Lease:
    """
    Attributes:
        beat_s: how often an owner shows that it lives.
        expiry_s: how long it must not have done so to lose its claim. More than a network file
            system may keep a directory in its cache, and many times ``beat_s``.
    """

    beat_s: float = BEAT_S
    expiry_s: float = EXPIRY_S


LEASE = Lease()


@dataclass(frozen=True)
class Holder:
    """
    What a claim file says.

    Attributes:
        machine: where process ids mean the same: this start of this computer, and its container.
        started: when the process began, so that another one with its id is not taken for it.
        beat: what the owner counts up; -1 while the file is being written.
    """

    generation: int
    host: str = "an unknown machine"
    machine: str = ""
    pid: int = 0
    started: str = ""
    beat: int = -1
    released: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class HeldError(RuntimeError):
    """The folder has an owner already; ``holder`` is it."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(f"held by {holder}")
        self.holder = holder


class Claim:
    """
    A folder that is ours until this is released, or lost: :attr:`lost` is set as soon as somebody
    else took the folder over, or we could not show for :attr:`Lease.expiry_s` that we live.
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
        """Asks the folder, not what the last heartbeat found."""
        if not self.lost.is_set() and _newest_generation(self._folder) > self._holder.generation:
            self.lost.set()
        return not self.lost.is_set()

    def release(self) -> None:
        """Let anybody have it, at once."""
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
            except OSError:  # perhaps the file system comes back
                if time.monotonic() - written > self._lease.expiry_s:
                    self.lost.set()
                    return

    def _write(self, holder: Holder) -> None:
        write_json(_file(self._folder, holder.generation), _content(holder))


class Observer:
    """Watches the claims of one folder, without taking any; asked again and again."""

    def __init__(self, folder: Path, lease: Lease = LEASE) -> None:
        self._folder = folder
        self._lease = lease
        self._seen: tuple[int, int] | None = None
        self._since = 0.0

    def holder(self) -> Holder | None:
        """The owner, or None if anybody may take the folder."""
        newest = read_newest(self._folder)
        if newest is None or newest.released or self._is_stale(newest):
            return None
        return newest

    def stale_generation(self) -> int | None:
        """What :func:`take` may replace on any machine though it was not released."""
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
    Own ``folder``, which must be there, if nobody does.

    Args:
        stale: the generation that an :class:`Observer` found to be stale.

    Raises:
        HeldError: somebody owns it, or was faster.
    """
    newest = read_newest(folder)
    if newest is not None and newest.generation != stale and not _is_over(newest):
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
    """The newest claim, released or not; None if there never was one."""
    generation = _newest_generation(folder)
    if generation == 0:
        return None
    try:
        content = json.loads(_file(folder, generation).read_text(encoding="utf-8"))
        return Holder(generation=generation, **content)
    except (json.JSONDecodeError, TypeError):  # just created, or its owner died creating it
        return Holder(generation=generation)


def _newest_generation(folder: Path) -> int:
    try:
        found = [CLAIM_FILE.fullmatch(name) for name in os.listdir(folder)]
    except FileNotFoundError:
        return 0
    return max((int(match[1]) for match in found if match), default=0)


def _file(folder: Path, generation: int) -> Path:
    return folder / f"claim.{generation}"


def _content(holder: Holder) -> dict[str, Any]:
    content = asdict(holder)
    del content["generation"]
    return content


def _is_over(holder: Holder) -> bool:
    return holder.released or _is_dead(holder)


def _is_dead(holder: Holder) -> bool:
    """Whether it is a process of this machine that is not there any more."""
    here = _machine()
    if not here or holder.machine != here:
        return False
    return _start_of(holder.pid) != holder.started


def _myself(generation: int) -> Holder:
    pid = os.getpid()
    return Holder(generation, socket.gethostname(), _machine(), pid, _start_of(pid) or "", beat=0)


def _machine() -> str:
    """Empty where the system does not tell (other than Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When a process began, in ticks since the start of the machine; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # what is before may hold spaces
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started
