"""Files that several processes read while one writes them, and what is in a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NoReturn


class UnfinishedFile:
    """
    A new file beside the one whose place it takes: a context that leaves nothing behind unless
    :meth:`finish` is called, and a stream that can be written to.

    Where writing fails, the context raises an OSError that names the file in place of whatever a
    library made of it. While it is open the file is locked, which is how
    :func:`remove_unfinished` knows whether its writer still lives.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._failure: OSError | None = None

    def __enter__(self) -> UnfinishedFile:
        while True:
            name = f".{self._file.name}.{uuid.uuid4().hex}.tmp"
            self._beside = self._file.with_name(name)
            try:
                self._stream = self._beside.open("xb")
            except OSError as error:
                raise self._named(error) from error
            with contextlib.suppress(OSError):  # without locks, nobody else can lock it either
                fcntl.lockf(self._stream, fcntl.LOCK_EX)
            if self._beside.exists():  # else it was removed before it was locked
                return self
            self._stream.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._beside.unlink(missing_ok=True)  # before the lock is gone
        with contextlib.suppress(OSError):  # what could not be written then cannot be now
            self._stream.close()
        if self._failure is not None:
            raise self._named(self._failure) from self._failure

    @property
    def sha256(self) -> str:
        """Of what has been written, hexadecimal."""
        return self._digest.hexdigest()

    def write(self, content: bytes) -> int:
        """Same interface as that of a binary stream."""
        try:
            written = self._stream.write(content)
        except OSError as error:
            self._fail(error)
        self._digest.update(content)
        return written

    def flush(self) -> None:
        """After this the content is on the disk."""
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            self._fail(error)

    def finish(self) -> None:
        """Take the place of the old file; to be called after :meth:`flush`."""
        self._beside.replace(self._file)

    def _fail(self, error: OSError) -> NoReturn:
        self._failure = self._failure or error
        raise error

    def _named(self, error: OSError) -> OSError:
        return OSError(error.errno, error.strerror, str(self._file))


def remove_unfinished(folder: Path, pattern: str) -> None:
    """
    Remove what processes that were killed have left of an :class:`UnfinishedFile`; not what another
    process is writing, nor what we may not remove.

    Args:
        pattern: of the names of the files that they would have become, as in `glob`.
    """
    for left in folder.glob(f".{pattern}.{'[0-9a-f]' * 32}.tmp"):
        with contextlib.suppress(OSError), left.open("r+b") as stream:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def sync_folder(folder: Path) -> None:
    """After this, the names in the folder are on the disk: renaming alone can be lost."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that have no such thing
            raise
    finally:
        os.close(handle)


def write_all(files: Mapping[Path, bytes]) -> None:
    """
    Each of them all or nothing: a reader, or a crash, never sees half of it. Everything is written
    beside the old files before the first of them is replaced, in the given order.
    """
    with ExitStack() as stack:
        unfinished = []
        for file, content in files.items():
            new = stack.enter_context(UnfinishedFile(file))
            new.write(content)
            new.flush()
            unfinished.append(new)
        for new in unfinished:
            new.finish()


def write_text(file: Path, text: str) -> None:
    """As :func:`write_all`, one file, UTF-8."""
    write_all({file: text.encode()})


def write_json(file: Path, content: Any) -> None:
    """
    As :func:`write_text`, strict JSON.

    Raises:
        ValueError: there is a NaN or an infinity in it.
    """
    write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def sha256_of(file: Path) -> str:
    """Hexadecimal."""
    with file.open("rb") as stream:
        return digest_of(stream)


def digest_of(stream: BinaryIO, algorithm: str = "sha256") -> str:
    """
    Hexadecimal, of the whole stream; it is read in pieces, because annotations may be half a
    gigabyte, and is at its beginning afterwards.
    """
    stream.seek(0)
    digest = hashlib.new(algorithm, usedforsecurity=False)
    while piece := stream.read(1 << 20):
        digest.update(piece)
    stream.seek(0)
    return digest.hexdigest()
