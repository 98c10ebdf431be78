"""Sudden death of a test process in the middle of its writes."""

import os
import signal


def die_after(operations):
    """Let this process die at the operation (folder change or file sync) after so many others."""
    left = [operations]

    def counted(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("fsync", "replace", "rename", "unlink", "open"):
        setattr(os, name, counted(getattr(os, name)))
