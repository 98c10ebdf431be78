"""State of a run, in a file of its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ...files import write_json
from ...run_folder import RESULT_FILE, STATUS_FILE

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

        A run that nobody started is pending. A run with a result is done, whatever its status file
        says, because a process may die between writing the two files.
        """
        file = folder / STATUS_FILE
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if (folder / RESULT_FILE).exists():
            return cls("done", attempts=content.get("attempts", 0))
        return cls(**{**content, "log_tail": tuple(content.get("log_tail", ()))})
