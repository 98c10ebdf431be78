"""Signals that ask a job to end."""

from __future__ import annotations

import math
import signal
import time

JOB_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What a user, a terminal or a scheduler sends to end a training."""
STOPPED = frozenset(128 + number for number in JOB_SIGNALS)
"""Exit codes of a process that was asked to end, and did."""
SAME_REQUEST_S = 1.0
"""Signals that are no further apart are one request."""


class StopRequests:
    """
    Counts how often somebody asked a process to end.

    One request arrives as several signals: terminals, schedulers and `timeout` signal every process
    of a job, and the one that started the others passes it on to them.

    Attributes:
        count: requests so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last = -math.inf

    def is_new(self) -> bool:
        """To be called by the handler of a signal: whether it is a request of its own."""
        now = time.monotonic()
        if now - self._last < SAME_REQUEST_S:
            return False
        self._last = now
        self.count += 1
        return True
