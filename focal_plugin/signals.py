"""Signals that request the end of a training."""

from __future__ import annotations

import signal

JOB_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""
Signals that a scheduler, a user or a terminal sends to all processes of a job.

After one of them, a trainer finishes its step, saves a checkpoint and ends.
"""

STOPPED = 128 + signal.SIGTERM
"""Exit code of a trainer that a scheduler ended."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a trainer that its user ended by Ctrl-C."""
