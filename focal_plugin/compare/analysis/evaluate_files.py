"""Evaluation of many files of detections, in several processes if that is faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ...forked import in_processes, usable_processes
from ...garbage_collection import garbage_collection_paused
from .detections.average_precision import evaluate
from .detections.coco_json import GroundTruth
from .detections.run_numbers import RunNumbers, run_numbers

# Bytes of all files below which the start of processes takes longer than it saves
_WORTH_PROCESSES = 2**24
# Bytes that all processes together may need, and bytes that one needs for each byte of its file
_MEMORY, _PER_BYTE = 2**30, 4


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

    Few or small files are evaluated one by one, when their result is asked for. Otherwise each
    processor evaluates a file at a time. The results are the same.

    Args:
        replicates: resamples of the images; 0 skips them.
        metrics: averages, with "AP".

    Yields:
        A function for each file, in their order. It returns the numbers or raises the errors of
        :func:`~.detections.average_precision.evaluate`.
    """

    def numbers(index: int) -> RunNumbers:
        file, limit = files[index]
        with garbage_collection_paused():  # the entries of the file are gone before it ends
            evaluation = evaluate(truth, file)
            return run_numbers(evaluation, replicates=replicates, metrics=metrics, limit=limit)

    return in_processes(numbers, len(files), _processes([file for file, _ in files]))


def _processes(files: Sequence[Path]) -> int:
    """Return the number of processes, which the memory for the largest file limits."""
    sizes = [file.stat().st_size for file in files if file.is_file()]
    if sum(sizes) < _WORTH_PROCESSES:
        return 1
    return min(usable_processes(), len(files), max(1, _MEMORY // (_PER_BYTE * max(sizes))))
