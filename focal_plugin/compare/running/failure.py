"""Reason why a trainer failed, in one line, from the end of its log."""

from __future__ import annotations

import re
import signal
from pathlib import Path

LOG_TAIL_LINES = 50
LOG_TAIL_BYTES = 1 << 16
REASON_LENGTH = 300
DISK_FULL = "disk full"

EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit)\b(:.*)?")
NON_FINITE = re.compile(r"(?:\w+\.)*NonFiniteError: (.+? at iteration \d+)\b.*")
NAN_LOSS = re.compile(r"FloatingPointError: Loss became infinite or NaN at iteration=(\d+)")
NAN_TERM = re.compile(r"'(\w+)': (?:[\w.]+\()?(-?[\w.+-]+)")  # numpy 2 writes np.float64(nan)
NO_SPACE = re.compile(
    r"No space left on device|Disk quota exceeded|PytorchStreamWriter failed writing file"
)


def read_log_tail(log: Path, start: int) -> tuple[str, ...]:
    """Return the last lines of ``log`` after byte ``start``."""
    with log.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(start, size - LOG_TAIL_BYTES))
        text = stream.read().decode("utf-8", errors="replace")
    return tuple(text.splitlines()[-LOG_TAIL_LINES:])


def explain_failure(exit_code: int, tail: tuple[str, ...]) -> str:
    """
    Return the reason in one line: the last exception, or the signal or exit code.

    A full disk has priority, because it often causes a different exception later.
    """
    full = next((line for line in reversed(tail) if NO_SPACE.search(line)), None)
    if full is not None:
        return _shortened(f"{DISK_FULL}: {full.strip()}")
    for number in reversed(range(len(tail))):
        non_finite = NON_FINITE.fullmatch(tail[number])
        if non_finite:
            return _shortened(non_finite[1])
        nan = NAN_LOSS.match(tail[number])
        if nan:
            losses = NAN_TERM.findall(" ".join(tail[number + 1 : number + 2]))
            terms = ", ".join(f"{name} {value}" for name, value in losses)
            return _shortened(f"loss became NaN or infinite at iteration {nan[1]}: {terms}")
        if EXCEPTION.fullmatch(tail[number]):
            return _shortened(tail[number])
    if exit_code < 0:
        return _name_of_signal(-exit_code)
    last = next((line for line in reversed(tail) if line.strip()), "no output")
    return _shortened(f"exit code {exit_code}: {last.strip()}")


def _name_of_signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hint = ", possibly out of memory" if name == "SIGKILL" else ""
    return f"ended by {name}{hint}"


def _shortened(text: str) -> str:
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 3] + "..."
