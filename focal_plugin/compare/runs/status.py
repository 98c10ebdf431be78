"""State of a run, in a file of its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...files import write_json
from ...json_file import DamagedFileError, read_object
from ...run_folder import RESULT_FILE, STATUS_FILE
from .result import Result

STATES = ("pending", "running", "done", "failed")


@dataclass(frozen=True)
class Status:
    """
    State of a run.

    Attributes:
        state: one of :data:`STATES`; an interrupted run is pending again.
        reason: reason of a failure, one line for people.
        exit_code: exit code of the failed process; negative for the signal that ended it.
        log_tail: last lines that the process wrote.
        attempts: number of starts; every start after the first one resumes.
    """

    state: str = "pending"
    reason: str | None = None
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()
    attempts: int = 0

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}, got {self.state!r}")

    @property
    def restarts(self) -> int:
        """Number of starts after the first one."""
        return max(self.attempts - 1, 0)

    def write(self, folder: Path) -> None:
        """Write `status.json`."""
        write_json(folder / STATUS_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Status:
        """
        Read the status of a run.

        A run that nobody started is pending. A run is done if and only if it has a result, whatever
        its status file says, because a process may die between writing the two files. A run with a
        damaged file of the two has failed, and the reason names the file.
        """
        return read_state(folder)[0]


class StatusReader:
    """
    Reader of the status of one run, for those who ask often.

    It parses the files only if they have changed. They are replaced as a whole, so their metadata
    show a change, in a hundredth of the time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions: tuple[object, ...] = ()
        self._status = Status()

    def read(self) -> Status:
        """Return what :meth:`Status.read` returns."""
        versions = tuple(_version(self._folder / name) for name in (STATUS_FILE, RESULT_FILE))
        if versions != self._versions:
            self._status = Status.read(self._folder)
            self._versions = versions
        return self._status


def _version(file: Path) -> object:
    try:
        stat = file.stat()
    except OSError as error:
        return error.errno
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def read_state(folder: Path) -> tuple[Status, Result | None]:
    """Read status and result of a run, see :meth:`Status.read`."""
    status, damage = Status(), ""
    try:
        status = read_object(Status, folder / STATUS_FILE) or status
    except DamagedFileError as error:
        damage = f"{error}. Delete {STATUS_FILE} to continue the run"
    try:
        result = Result.read(folder)
    except DamagedFileError as error:
        result = None
        damage = f"{error}. Delete {RESULT_FILE} to evaluate the run again"
    if result is not None:
        return Status("done", attempts=status.attempts), result
    if damage:
        return Status("failed", damage, attempts=status.attempts), None
    if status.state == "done":
        status = replace(status, state="pending")
    return status, None
