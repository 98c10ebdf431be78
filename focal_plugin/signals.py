"""Signals that request the end of a training."""

from __future__ import annotations

import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Signals after which a trainer finishes its step, saves a checkpoint and ends."""

JOB_SIGNALS = (*STOP_SIGNALS, signal.SIGINT)
"""Signals that a user, a terminal or a scheduler sends to all processes of a job."""

STOPPED = 128 + signal.SIGTERM
"""Exit code of a trainer that ended on request."""
