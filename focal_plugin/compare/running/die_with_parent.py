"""
Becomes another command, which ends when the thread that started this does, even by `kill -9`.

    python -I -S die_with_parent.py PID_OF_PARENT COMMAND ARGUMENT ...

Imports nothing of the package, which would take seconds. Linux; elsewhere the command outlives its
parent.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, command = int(sys.argv[1]), sys.argv[2:]
    # A parent may ignore what asks its child to stop, or block signals; both would be inherited
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent was gone before the command began")
    os.execv(command[0], command)
