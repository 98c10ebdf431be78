"""How a process of a test dies in the middle of what it writes."""

import os
import signal


def die_after(operations):
    """This process dies instead of the next change of a folder or sync of a file after so many."""
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
