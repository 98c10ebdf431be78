"""
Wrapper of a command that ends with the thread that started it, even after `kill -9`.

    python -I -S die_with_parent.py PID_OF_PARENT COMMAND ARGUMENT ...

It imports nothing from the package, because that takes seconds. It requires Linux; on other systems
the command outlives its parent.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, command = int(sys.argv[1]), sys.argv[2:]
    # A child inherits ignored and blocked signals, but the command must react to SIGTERM
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent ended before the command started")
    os.execv(command[0], command)
