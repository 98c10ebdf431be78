"""Evaluation of many files of detections, in several processes if that is faster."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .detections.average_precision import evaluate
from .detections.coco_json import GroundTruth
from .detections.run_numbers import RunNumbers, run_numbers

# Bytes of all files below which the start of processes takes longer than it saves
_WORTH_PROCESSES = 2**24
# Bytes that all processes together may need, and bytes that one needs for each byte of its file
_MEMORY, _PER_BYTE = 2**30, 4
_PR_SET_PDEATHSIG = 1


class FileOfRun(NamedTuple):
    """
    Detections of one run.

    Attributes:
        file: `coco_instances_results.json`.
        limit: most detections that the run keeps on an image; None if that is not known.
    """

    file: Path
    limit: int | None = None


def evaluate_files(
    truth: GroundTruth, files: Sequence[FileOfRun], *, replicates: int, metrics: tuple[str, ...]
) -> Iterator[Callable[[], RunNumbers]]:
    """
    Evaluate files on the same ground truth.

    Small files are evaluated one by one, when their result is asked for. Otherwise each processor
    evaluates a file at a time. The results are the same.

    Args:
        replicates: resamples of the images; 0 skips them.
        metrics: averages, with "AP".

    Yields:
        A function for each file, in their order. It returns the numbers or raises the errors of
        :func:`~.detections.average_precision.evaluate`.
    """
    work = functools.partial(_numbers, truth, replicates=replicates, metrics=metrics)
    processes = _processes([file for file, _ in files])
    if processes == 1:
        for of_run in files:
            yield functools.partial(work, of_run)
        return
    with ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("fork"),
        initializer=_start,
        initargs=(os.getpid(), work),
    ) as pool:
        try:
            for future in [pool.submit(_evaluated, of_run) for of_run in files]:
                yield future.result
        finally:
            pool.shutdown(cancel_futures=True)


def _processes(files: Sequence[Path]) -> int:
    """Return the number of processes, which the memory for the largest file limits."""
    sizes = [file.stat().st_size for file in files if file.is_file()]
    # A process that is forked beside threads may wait for a lock forever
    alone = sys.platform == "linux" and threading.active_count() == 1
    if not alone or sum(sizes) < _WORTH_PROCESSES:
        return 1
    return max(1, min(len(os.sched_getaffinity(0)), len(files), _MEMORY // _PER_BYTE // max(sizes)))


def _numbers(
    truth: GroundTruth, of_run: FileOfRun, *, replicates: int, metrics: tuple[str, ...]
) -> RunNumbers:
    evaluation = evaluate(truth, of_run.file)
    return run_numbers(evaluation, replicates=replicates, metrics=metrics, limit=of_run.limit)


_work: Callable[[FileOfRun], RunNumbers]  # of a process, which gets it once


def _evaluated(of_run: FileOfRun) -> RunNumbers:
    return _work(of_run)


def _start(parent: int, work: Callable[[FileOfRun], RunNumbers]) -> None:
    """Prepare a process: it ends with its parent, which alone reacts to Ctrl-C."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
