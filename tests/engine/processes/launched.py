"""
What test_launch.py runs in its processes; the fork server of `tests/conftest.py`, from which they
come, imports this file.
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
"""Longer than any test waits; but one that fails has an end."""


def tell_place(folder):
    """A file for each rank, with its place and what it has from the others."""
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
    """One rank fails while the others wait for it."""
    if comm.get_rank() == rank:
        time.sleep(0.1)  # they do wait
        ways = {"raise": _raise, "exit": sys.exit, "_exit": os._exit, "signal": _signal_itself}
        ways[how](value)
    distributed.barrier()


def fail_all():
    """As a config that is illegal does."""
    raise ValueError("no rank likes this")


def _raise(text):
    raise ValueError(text)


def _signal_itself(number):
    os.kill(os.getpid(), number)
    sleep()


def vanish_slowly():
    """A killed process that frees a GPU is gone a while after its connections are."""
    distributed.barrier()
    if comm.get_rank() == 0:
        raise ConnectionError("rank 1 hung up")
    time.sleep(0.2)
    _signal_itself(signal.SIGKILL)


def fail_beside_a_deaf_one(folder):
    """Rank 0 does not listen to SIGTERM."""
    if comm.get_rank() == 0:
        signal.signal(signal.SIGTERM, lambda *_: (folder / "asked").touch())
        distributed.barrier()
        sleep()
    distributed.barrier()
    raise ValueError("rank 1 gives up")


def end_slowly(folder, seconds):
    """As the trainer does: rank 0 saves after the others have nothing more to do."""
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
    """Both ranks hear what asks them to stop, and go on."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    ready(folder)
    sleep()


def clean_up_when_interrupted(folder):
    """Whoever interrupts the cleaning up is remembered."""
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
    """In compiled code, where Python handles no signal."""
    ready(folder)
    distributed.recv(torch.zeros(1), src=1 - comm.get_rank())


def launch_two(function, *arguments, **options):
    """The way that train_net.py does, on a free port."""
    launch(function, 2, dist_url="auto", args=arguments, timeout=timedelta(seconds=60), **options)


def launch_two_forked(function, *arguments):
    """In a process of its own, which has imported everything."""
    fork_ranks()
    launch_two(function, *arguments)
