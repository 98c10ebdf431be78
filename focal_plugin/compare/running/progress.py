"""Progress of the runs of a sweep, on a terminal or in a log file."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm.utils import disp_len, disp_trim

from ...run_folder import METRICS_FILE
from ..plan.comparison import Run
from ..runs.result import parse_metrics

READ_S = 1.0
LOG_EVERY_S = 30.0
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
ORDER = ("running", "elsewhere", "failed", "waiting", "done")
"""States in the order of priority if the terminal has too few lines for all runs."""


@dataclass(frozen=True)
class RunState:
    """
    State of a run as a person sees it.

    Attributes:
        name: "waiting", "running", "elsewhere" (another command trains it), "done" or "failed".
        detail: owner of the run, or reason of the failure.
    """

    name: str
    detail: str = ""


class MetricsReader:
    """Reader of the newest numbers of a growing `metrics.json`; it reads each line once."""

    def __init__(self, folder: Path) -> None:
        self.iteration = 0
        self.loss: float | None = None
        self.iteration_s: float | None = None
        self.ap: float | None = None
        self._file = folder / METRICS_FILE
        self._position = 0

    def read(self) -> None:
        """Read the new lines. A truncated line is read once it is complete, or never."""
        try:
            with self._file.open("rb") as stream:
                if stream.seek(0, 2) < self._position:  # the file was replaced
                    self._position = 0
                stream.seek(self._position)
                new = stream.read()
        except OSError:  # most often, because the run has logged nothing
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._position += len(whole)
        for metrics in filter(None, map(parse_metrics, whole.split(b"\n"))):
            # A resumed attempt starts from its last checkpoint, so the iteration may decrease
            self.iteration = metrics["iteration"] + 1
            self.loss = metrics.get("total_loss", self.loss)
            self.iteration_s = metrics.get("time", self.iteration_s)
            self.ap = metrics.get("bbox/AP", self.ap)


class Progress:
    """
    Display of one line per run and one total.

    On a terminal the lines are redrawn in place. Elsewhere every change of state is a line, and
    every running run prints a line each half minute.
    """

    def __init__(self, runs: Sequence[tuple[Run, Path]], stream: TextIO) -> None:
        self._runs = [run for run, _ in runs]
        self._readers = [MetricsReader(folder) for _, folder in runs]
        self._states = [RunState("waiting")] * len(runs)
        self._stream = stream
        self._terminal = stream.isatty()
        self._drawn = 0
        self._shown = -math.inf
        self._width = max((disp_len(_plain(run.name)) for run in self._runs), default=0)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._erase()
        self._print([_plain(text)])

    def update(self, states: Sequence[RunState]) -> None:
        """Take over the states, and print if something changed or enough time has passed."""
        now = time.monotonic()
        changed = {i for i, state in enumerate(states) if state != self._states[i]}
        self._states = list(states)
        due = now - self._shown >= (READ_S if self._terminal else LOG_EVERY_S)
        if not changed and not due:
            return
        running = {i for i, state in enumerate(states) if state.name in ("running", "elsewhere")}
        for index in running | changed:
            self._readers[index].read()
        if self._terminal:
            self._erase()
            self._print([self._line(i) for i in sorted(changed) if states[i].name == "failed"])
            self._draw()
            self._shown = now
        elif due:
            self._print([*map(self._line, sorted(running | changed)), self._total()])
            self._shown = now
        else:
            self._print(map(self._line, sorted(changed)))

    def close(self) -> None:
        """Draw the last states, which stay on the screen."""
        if self._terminal and self._drawn:
            self._erase()
            self._draw()
            self._drawn = 0

    def _draw(self) -> None:
        """Draw lines cut to the terminal size, because wrapped lines could not be erased."""
        columns, rows = shutil.get_terminal_size()
        room = max(1, rows - 2)
        shown = sorted(range(len(self._runs)), key=lambda i: ORDER.index(self._states[i].name))
        hidden = len(shown) - room
        shown = sorted(shown[: room if hidden <= 0 else room - 1])
        lines = [self._line(index) for index in shown]
        if hidden > 0:
            lines.append(f"... and {len(self._runs) - len(shown)} more")
        lines.append(self._total())
        self._print([disp_trim(line, columns - 1) for line in lines])
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _print(self, lines: Iterable[str]) -> None:
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()

    def _line(self, index: int) -> str:
        run, state, reader = self._runs[index], self._states[index], self._readers[index]
        name = _plain(run.name)
        start = f"{name}{' ' * (self._width - disp_len(name))}  {state.name:9}"
        if state.name == "failed":
            return f"{start}  {_plain(state.detail)}"
        done = self._iterations(index)
        parts = [f"{done:>{len(str(run.iterations))}}/{run.iterations}"]
        if state.name in ("running", "elsewhere") and done:
            parts += self._speed(index)
        if reader.ap is not None:
            parts.append(f"AP {reader.ap:.1f}")
        if state.name == "elsewhere":
            parts.append(f"({_plain(state.detail)})")
        return "  ".join([start, *parts])

    def _speed(self, index: int) -> list[str]:
        reader = self._readers[index]
        left = self._runs[index].iterations - self._iterations(index)
        parts = []
        if reader.iteration_s is not None and left:
            parts += [f"{reader.iteration_s:.3g} s/it", f"ETA {_time(left * reader.iteration_s)}"]
        if reader.loss is not None:
            parts.append(f"loss {reader.loss:.4g}")
        return parts if left else [*parts, "evaluating"]

    def _total(self) -> str:
        counts = Counter(state.name for state in self._states)
        said = [f"{counts[name]} {name}" for name in ORDER if counts[name]]
        total = sum(run.iterations for run in self._runs)
        done = sum(map(self._iterations, range(len(self._runs))))
        text = f"{len(self._runs)} runs: {', '.join(said)}; {done}/{total} iterations"
        left = self._seconds_left()
        return text if left is None else f"{text}, ETA {_time(left)}"

    def _seconds_left(self) -> float | None:
        """
        Return the estimated seconds to the end, without evaluations; None if nothing is known.

        The estimate uses the logged iteration time of each run, the mean of these for the other
        runs, and the number of runs that train now.
        """
        known = [r.iteration_s for r in self._readers if r.iteration_s is not None]
        at_a_time = sum(state.name in ("running", "elsewhere") for state in self._states)
        if not known or not at_a_time:
            return None
        mean = sum(known) / len(known)
        left = [
            (run.iterations - self._iterations(i)) * (self._readers[i].iteration_s or mean)
            for i, run in enumerate(self._runs)
            if self._states[i].name not in ("done", "failed")
        ]
        return max(sum(left) / at_a_time, max(left, default=0.0))

    def _iterations(self, index: int) -> int:
        if self._states[index].name == "done":
            return self._runs[index].iterations
        # The evaluation after training counts as one more iteration
        return min(self._readers[index].iteration, self._runs[index].iterations)


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _plain(text: str) -> str:
    """Replace control characters, which a terminal would execute."""
    return CONTROL.sub("?", text)
