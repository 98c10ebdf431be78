"""Where a run stands, in a file of its folder."""

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
    Attributes:
        state: one of :data:`STATES`; an interrupted run is pending again.
        reason: why it failed, one line for people.
        exit_code: of the process that failed; negative: the signal that ended it.
        log_tail: the last lines it wrote.
        attempts: how often it was started; every one after the first resumes.
    """

    state: str = "pending"
    reason: str | None = None
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()
    attempts: int = 0

    @property
    def restarts(self) -> int:
        return max(self.attempts - 1, 0)

    def write(self, folder: Path) -> None:
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
