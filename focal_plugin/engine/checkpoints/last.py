"""Selection of the checkpoint of a folder from which a run resumes."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...files import sync_folder, write_text
from ...run_folder import LAST_CHECKPOINT
from .file import CheckpointError

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"model_([0-9]+)\.pth")


def last_file(folder: Path) -> Path:
    """
    Return the file that `last_checkpoint` names.

    Raises:
        CheckpointError: `last_checkpoint` does not name a file of the folder.
    """
    record = folder / LAST_CHECKPOINT
    try:
        name = record.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise CheckpointError(f"{record} cannot be read: {error.strerror}") from error
    if not name:
        raise CheckpointError(f"{record} is empty: it must contain the name of a checkpoint")
    if name in {".", ".."} or "/" in name or "\\" in name:
        raise CheckpointError(
            f"{record} names {name!r:.80}: it must be a file of that folder, not a path"
        )
    if not _is_file(folder / name):
        raise CheckpointError(f"{record} names {_shown(name)}, which does not exist in that folder")
    return folder / name


def set_last_file(folder: Path, name: str) -> None:
    """Write `last_checkpoint` atomically and sync it to the disk."""
    write_text(folder / LAST_CHECKPOINT, name)
    sync_folder(folder)


def newest_whole(
    folder: Path, damaged: Path | None, read: Callable[[Path], dict[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    """
    Return the newest readable checkpoint that is not newer than the damaged one.

    Args:
        read: reads a file, or raises a CheckpointError.

    Returns:
        the file and its content.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    newest: tuple[Path, dict[str, Any]] | None = None
    newest_iteration = -1
    limit = math.inf if damaged is None else _number_of(damaged)
    files = [file for file in folder.glob("model_*.pth") if file != damaged]
    for file in sorted(files, key=_number_of, reverse=True):
        if _number_of(file) < newest_iteration:
            break  # all further files are older, and reading a file may take long
        try:
            content = read(file)
            iteration = iteration_of(file, content)
        except CheckpointError as error:
            logger.warning(f"This checkpoint is not usable either: {error}")
            continue
        if newest_iteration < iteration <= limit:
            newest, newest_iteration = (file, content), iteration
    if newest is None:
        raise CheckpointError(f"{folder} contains no older checkpoint to resume from")
    return newest


def iteration_of(file: Path, content: Mapping[str, Any]) -> int:
    """
    Return the iteration after which a checkpoint was saved.

    Raises:
        CheckpointError: the checkpoint does not state it.
    """
    iteration = content.get("iteration")
    if type(iteration) is not int or iteration < 0:
        raise CheckpointError(
            f"cannot resume from {file}: it does not state its iteration. To start from its "
            "weights, pass it as MODEL.WEIGHTS, without --resume"
        )
    return iteration


def _shown(name: str) -> str:
    """Return a name as text of one short line."""
    return name if name.isprintable() and len(name) <= 80 else f"{name[:80]!r}"


def _is_file(file: Path) -> bool:
    """Return False also for a name that no file can have."""
    try:
        return file.is_file()
    except (OSError, ValueError):
        return False


def _number_of(file: Path) -> float:
    """Return the iteration in a file name; infinity for a name such as model_final."""
    found = _NUMBER.fullmatch(file.name)
    return int(found[1]) if found else math.inf
