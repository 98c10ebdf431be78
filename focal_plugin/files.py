"""Atomic writes of files that other processes read, and digests of file contents."""

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
    Temporary file that replaces the target file on :meth:`finish`.

    It is a context manager and a writable stream. Without a call of :meth:`finish` it leaves
    nothing behind. If a write fails, the context raises an OSError that names the target file,
    whatever exception a library raised in between. The file stays locked while it is open, so that
    :func:`remove_unfinished` can tell whether its writer is still alive.
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
            with contextlib.suppress(OSError):  # if locks are not supported, nobody can lock it
                fcntl.lockf(self._stream, fcntl.LOCK_EX)
            if self._beside.exists():  # otherwise, another process removed it before the lock
                return self
            self._stream.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._beside.unlink(missing_ok=True)  # before the lock is released
        with contextlib.suppress(OSError):  # a failed write fails again on close
            self._stream.close()
        if self._failure is not None:
            raise self._named(self._failure) from self._failure

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the content written so far."""
        return self._digest.hexdigest()

    def write(self, content: bytes) -> int:
        """Write to the file, like a binary stream."""
        try:
            written = self._stream.write(content)
        except OSError as error:
            self._fail(error)
        self._digest.update(content)
        return written

    def flush(self) -> None:
        """Flush the content to disk."""
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            self._fail(error)

    def finish(self) -> None:
        """Replace the target file. Call :meth:`flush` first."""
        try:
            self._beside.replace(self._file)
        except OSError as error:
            raise self._named(error) from error

    def _fail(self, error: OSError) -> NoReturn:
        self._failure = self._failure or error
        raise error

    def _named(self, error: OSError) -> OSError:
        return OSError(error.errno, error.strerror, str(self._file))


def remove_unfinished(folder: Path, pattern: str) -> None:
    """
    Remove the temporary files of an :class:`UnfinishedFile` whose writer was killed.

    Files that another process still writes, or that may not be removed, stay.

    Args:
        pattern: glob pattern of the names of the target files.
    """
    for left in folder.glob(f".{pattern}.{'[0-9a-f]' * 32}.tmp"):
        with contextlib.suppress(OSError), left.open("r+b") as stream:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk; otherwise a rename can be lost."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system does not support it
            raise
    finally:
        os.close(handle)


def write_all(files: Mapping[Path, bytes]) -> None:
    """
    Write each file atomically: a reader, or a crash, never sees a partial file.

    All content is written to temporary files first. These then replace the targets in the given
    order.
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
    """Write one UTF-8 text file atomically, see :func:`write_all`."""
    write_all({file: text.encode()})


def write_if_other(file: Path, content: bytes) -> None:
    """Write one file atomically, with its folder, unless it has this content already."""
    if not (file.is_file() and file.read_bytes() == content):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_all({file: content})


def write_json(file: Path, content: Any) -> None:
    """
    Write one file of strict JSON atomically, see :func:`write_all`.

    Raises:
        ValueError: the content has a NaN or an infinity.
    """
    write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def end_line(file: Path) -> None:
    """End the last line of a text file, so that nothing is appended to a line that was cut off."""
    with contextlib.suppress(FileNotFoundError), file.open("r+b") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read() != b"\n":
                stream.write(b"\n")


def sha256_of(file: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with file.open("rb") as stream:
        return digest_of(stream)


def digest_of(stream: BinaryIO, algorithm: str = "sha256") -> str:
    """
    Return the hexadecimal digest of a whole stream, and rewind the stream.

    The stream is read in pieces, because annotations can take half a gigabyte.
    """
    stream.seek(0)
    digest = hashlib.new(algorithm, usedforsecurity=False)
    while piece := stream.read(1 << 20):
        digest.update(piece)
    stream.seek(0)
    return digest.hexdigest()
