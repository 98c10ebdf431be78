"""Files with the same content, found with little reading."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data.checks.findings import printable
from ..files import sha256_of

SAMPLE = 16 * 1024
"""Bytes from the middle of a file that are compared before all of it."""

UNREADABLE = -1
"""Content of a file that cannot be read."""


class Contents(NamedTuple):
    """
    Identity of the content of some files.

    Attributes:
        ids: (F,), int64. Two files have the same id if they have the same bytes. A file that
            cannot be read has :data:`UNREADABLE`.
        problems: file that cannot be read -> the reason.
    """

    ids: np.ndarray
    problems: dict[str, str]


def content_ids(files: Sequence[str]) -> Contents:
    """
    Compare files by size, then by a sample, then by SHA-256. Only equal ones are read further.

    Args:
        files: F paths; a path that occurs twice is read once.
    """
    problems: dict[str, str] = {}
    keys: dict[str, Hashable] = dict.fromkeys(files)
    for read in (_size, _sample, _sha256):
        times = Counter(keys.values())
        equal = [file for file, key in keys.items() if times[key] > 1 or key is None]
        for file, value, problem in _read_all(equal, read):
            if problem is None:
                keys[file] = (keys[file], value)
            else:
                problems[file] = problem
                del keys[file]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys.values()))}
    ids = [numbers[keys[file]] if file in keys else UNREADABLE for file in files]
    return Contents(np.array(ids, dtype=np.int64), problems)


def reason_of(error: Exception) -> str:
    """Return why a file cannot be read, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(text or type(error).__name__)


def _read_all(
    files: Iterable[str], read: Callable[[str], Hashable]
) -> Iterable[tuple[str, Hashable, str | None]]:
    """Return each file with its value, or with the reason why there is none."""

    def result(file: str) -> tuple[str, Hashable, str | None]:
        try:
            return file, read(file), None
        except (OSError, ValueError) as error:  # ValueError: no file can have this name
            return file, None, reason_of(error)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(result, files))


def _size(file: str) -> int:
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):  # a pipe would block
        raise OSError("not a regular file")
    return status.st_size


def _sample(file: str) -> bytes:
    with open(file, "rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - SAMPLE) // 2)
        return hashlib.sha256(stream.read(SAMPLE)).digest()


def _sha256(file: str) -> str:
    return sha256_of(Path(file))
