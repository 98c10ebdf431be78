"""
Functions that test_launch.py runs in its processes.

The fork server of `tests/conftest.py`, from which the processes come, imports this file.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from datetime import timedelta

import torch
from detectron2.utils import comm
from torch import distributed

from focal_plugin.engine.processes.launch import launch

from ...forked import fork_ranks

LONG_S = 40
"""Seconds longer than any test waits, but finite, so that a failing test ends."""


def tell_place(folder):
    """Write a file for each rank, with its place and the values received from the others."""
    total = torch.tensor(float(comm.get_rank() + 1))
    distributed.all_reduce(total)
    place = {
        "world_size": comm.get_world_size(),
        "local_rank": comm.get_local_rank(),
        "local_size": comm.get_local_size(),
        "sum": total.item(),
        "backend": distributed.get_backend(),
    }
    (folder / f"rank{comm.get_rank()}").write_text(json.dumps(place))


def tell_start_method(folder):
    (folder / f"rank{comm.get_rank()}").write_text(multiprocessing.get_start_method())


def fail(rank, how, value):
    """Let one rank fail while the others wait for it."""
    if comm.get_rank() == rank:
        time.sleep(0.1)  # until the others wait
        ways = {"raise": _raise, "exit": sys.exit, "_exit": os._exit, "signal": _signal_itself}
        ways[how](value)
    distributed.barrier()


def fail_all():
    """Fail in all ranks, as an invalid config does."""
    raise ValueError("no rank likes this")


def _raise(text):
    raise ValueError(text)


def _signal_itself(number):
    os.kill(os.getpid(), number)
    sleep()


def vanish_slowly():
    """Disappear like a killed process that frees a GPU, a while after its connections close."""
    distributed.barrier()
    if comm.get_rank() == 0:
        raise ConnectionError("rank 1 hung up")
    time.sleep(0.2)
    _signal_itself(signal.SIGKILL)


def fail_beside_a_deaf_one(folder):
    """Fail in rank 1, while rank 0 ignores SIGTERM."""
    if comm.get_rank() == 0:
        signal.signal(signal.SIGTERM, lambda *_: (folder / "asked").touch())
        distributed.barrier()
        sleep()
    distributed.barrier()
    raise ValueError("rank 1 gives up")


def end_slowly(folder, seconds):
    """End like the trainer: rank 0 saves after the others have finished."""
    received = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: received.append(number))
    ready(folder)
    deadline = time.monotonic() + LONG_S
    while not received and time.monotonic() < deadline:
        time.sleep(0.01)
    if comm.get_rank() == 0:
        time.sleep(seconds)
        (folder / "saved").write_text(" ".join(map(str, received)))
    sys.exit(143)


def be_deaf(folder):
    """Continue in both ranks after a request to stop."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    ready(folder)
    sleep()


def clean_up_when_interrupted(folder):
    """Clean up after an interruption, and record further interruptions."""
    try:
        ready(folder)
        sleep()
    except KeyboardInterrupt:
        time.sleep(0.3)
        (folder / f"clean{comm.get_rank()}").touch()
        raise


def ready(folder):
    (folder / f"ready{comm.get_rank()}").write_text(str(os.getpid()))


def sleep():
    time.sleep(LONG_S)


def wait_for_one_another(folder):
    """Wait in compiled code, where Python handles no signal."""
    ready(folder)
    distributed.recv(torch.zeros(1), src=1 - comm.get_rank())


def launch_two(function, *arguments, **options):
    """Launch two processes as train_net.py does, on a free port."""
    launch(function, 2, dist_url="auto", args=arguments, timeout=timedelta(seconds=60), **options)


def launch_two_forked(function, *arguments):
    """Launch two processes from a process that has imported everything."""
    fork_ranks()
    launch_two(function, *arguments)
