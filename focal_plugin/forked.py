"""Work on many items in several processes, which see the memory of this one."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1


def usable_processes() -> int:
    """
    Return how many processes can work at the same time: one for each processor.

    It is 1 where a fork is not safe. A process that is forked beside threads may wait forever for a
    lock that one of them held.
    """
    alone = sys.platform == "linux" and threading.active_count() == 1
    return len(os.sched_getaffinity(0)) if alone else 1


def in_processes(work: Callable[[int], T], count: int, processes: int) -> Iterator[Callable[[], T]]:
    """
    Call ``work`` for 0, 1, ... count - 1.

    The processes are forks, so ``work`` may use any object, and only its results are copied. They
    end with this process.

    Args:
        processes: number of processes. With one, this process works, when a result is asked for.

    Yields:
        A function for each number, in their order. It returns the result or raises its error. It
        may be called after the last one was yielded.
    """
    if processes <= 1:
        yield from (functools.partial(work, i) for i in range(count))
        return
    with ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("fork"),
        initializer=_start,
        initargs=(os.getpid(), work),
    ) as pool:
        try:
            for future in [pool.submit(_call, i) for i in range(count)]:
                yield future.result
        except BaseException:  # the caller wants no further result
            pool.shutdown(cancel_futures=True)
            raise


_work: Callable[[int], Any]  # of a fork


def _call(number: int) -> Any:
    return _work(number)


def _start(parent: int, work: Callable[[int], Any]) -> None:
    """Prepare a fork: it ends with its parent, which alone reacts to Ctrl-C."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
