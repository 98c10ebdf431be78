"""
Memory allocator of a trainer on the CPU: glibc's own, with large pages.

By default, glibc maps every large tensor anew and unmaps it when it is freed. The kernel then fills
its pages with zeros, 4 KiB at a time. This takes longer than many operations on the tensor. The
settings here ask the kernel for pages of 2 MiB, and keep freed memory up to a limit. They change no
result. Without the limit, the steps of Detectron2's own loss would fragment several GiB.

glibc reads its settings when a process starts. This module imports only the standard library, so
that a script can restart itself before it imports PyTorch. Whoever sets an allocator keeps it; the
variable `FOCAL_PLUGIN_ALLOCATOR=default` keeps that of the system.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

SWITCH = "FOCAL_PLUGIN_ALLOCATOR"
"""Variable with the choice: "default", or "tuned", which a process has that runs with it."""

TUNABLES = "GLIBC_TUNABLES"

HUGE_PAGES = {
    "glibc.malloc.hugetlb": 1,  # transparent huge pages, since glibc 2.35
    "glibc.malloc.mmap_threshold": 2**25,  # smaller blocks come from the heap, which stays mapped
    "glibc.malloc.trim_threshold": 2**30,  # free memory at its end that is kept
}

USERS_CHOICE = (SWITCH, TUNABLES, "LD_PRELOAD")
"""Variables of an allocator that the user has chosen, besides those that begin with `MALLOC_`."""

GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd")


def allocator_variables(environment: Mapping[str, str], *, on_gpu: bool) -> dict[str, str]:
    """
    Return the variables to add to those of a trainer, before it starts.

    Args:
        environment: the variables that the trainer would have.
        on_gpu: True if it trains on a GPU, whose tensors have another allocator.

    Returns:
        none if the user has chosen, or if the system has no glibc of 2.35 or later.
    """
    chosen = any(name in USERS_CHOICE or name.startswith("MALLOC_") for name in environment)
    if on_gpu or chosen or _glibc() < (2, 35):
        return {}
    return {
        TUNABLES: ":".join(f"{name}={value}" for name, value in HUGE_PAGES.items()),
        SWITCH: "tuned",
    }


def restart_with_tuned_allocator() -> None:
    """
    Replace this process by the same command with the settings, unless it has them.

    A script calls it before its other imports. Process number, arguments and output stay the same.
    A script that runs inside another process, such as a notebook, does not replace that process.
    """
    is_own_process = sys.orig_argv[-len(sys.argv) :] == sys.argv
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    on_gpu = not hidden and any(Path(device).exists() for device in GPU_DRIVERS)
    added = allocator_variables(os.environ, on_gpu=on_gpu)
    if added and is_own_process:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **added})


def is_tuned() -> bool:
    """Return True if this process runs with the settings."""
    return os.environ.get(SWITCH) == "tuned"


def _glibc() -> tuple[int, ...]:
    """Return the version of glibc; () on another system."""
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ()
    return tuple(int(number) for number in re.findall(r"\d+", name))
