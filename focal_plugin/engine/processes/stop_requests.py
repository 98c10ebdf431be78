"""Requests to end a job."""

from __future__ import annotations

import math
import time

from ...signals import JOB_SIGNALS

ENDED_ON_REQUEST = frozenset(128 + number for number in JOB_SIGNALS)
"""Exit codes of a process that ended on request."""
SAME_REQUEST_S = 1.0
"""Maximum distance of signals that count as one request, in seconds."""


class StopRequests:
    """
    Counter of requests to end a process.

    One request arrives as several signals. Terminals, schedulers and `timeout` signal every process
    of a job, and the parent process forwards the signal to the others.

    Attributes:
        count: requests so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last = -math.inf

    def is_new(self) -> bool:
        """Return True if a signal is a new request; signal handlers call this method."""
        now = time.monotonic()
        if now - self._last < SAME_REQUEST_S:
            return False
        self._last = now
        self.count += 1
        return True
