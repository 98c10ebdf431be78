"""Lock that prevents two trainings in one output folder."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK_NAME = ".train.lock"

_HELD_BY_ANOTHER = {errno.EACCES, errno.EAGAIN}
# Open files by process and folder. A process loses its lock as soon as it closes any descriptor of
# the file, so the file is opened once. A forked process has the descriptor, but not the lock.
_held: dict[tuple[int, Path], int] = {}


class OutputFolderError(RuntimeError):
    """Error if the output folder is in use, holds another run, or is not writable."""


def hold_output_folder(folder: Path) -> None:
    """
    Create the folder, and lock it until this process ends for any reason.

    Only the main process may call this function. Another call for the same folder has no effect. If
    the file system does not support locks, a warning is logged.

    Raises:
        OutputFolderError: another process holds the lock, on this machine or, on a network file
            system, on another machine; or the folder cannot be created or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        key = (os.getpid(), folder.resolve())
        if key not in _held:
            _held[key] = _open_locked(folder / LOCK_NAME)
    except OSError as error:
        raise OutputFolderError(
            f"the output folder {folder} cannot be created or written: {error.strerror or error} "
            f"({error.filename or folder}); choose another OUTPUT_DIR"
        ) from error


def _open_locked(file: Path) -> int:
    """Open and lock a file, write the owner into it, and return its descriptor."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        _lock(descriptor, file)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, file: Path) -> None:
    try:
        # A record lock: NFS supports it, and forked data workers do not inherit it.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD_BY_ANOTHER:
            raise OutputFolderError(
                f"the output folder {file.parent} is in use by {_owner(descriptor)}: wait for it, "
                "stop it, or choose another OUTPUT_DIR"
            ) from None
        logger.warning(
            f"{file} cannot be locked ({error.strerror}): a second training could write into this "
            "folder"
        )


def _owner(descriptor: int) -> str:
    host, _, process = os.pread(descriptor, 300, 0).decode(errors="replace").strip().partition(" ")
    return f"process {process} on {host}" if process else "another process"
