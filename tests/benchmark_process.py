"""Settings of a benchmark of test_benchmarks.py that runs in a process of the fork server."""

import ctypes
import subprocess
from subprocess import CompletedProcess

M_TOP_PAD, M_MMAP_THRESHOLD = -2, -3  # malloc.h


def give_large_blocks_back() -> None:
    """Do what the environment variables of the memory measurement do at Python's start."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 65536)
    libc.mallopt(M_TOP_PAD, 0)


def answer_for_memory(stdout: str) -> None:
    """Replace the start of the process that measures memory: it has already written ``stdout``."""
    run = subprocess.run

    def answer(command, **options):
        if command[-1] != "--memory-only":
            return run(command, **options)
        return CompletedProcess(command, 0, stdout)

    subprocess.run = answer
