"""Checkpoint files: atomic writes, and verification before use."""

from __future__ import annotations

import functools
import logging
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ...files import UnfinishedFile, digest_of, remove_unfinished, sync_folder
from ...run_folder import LAST_CHECKPOINT

logger = logging.getLogger(__name__)

FIRST_SAFE_TORCH = (2, 10)
"""First PyTorch version without known holes in `weights_only` (CVE-2025-32434, CVE-2026-24747)."""

PLAIN_TYPES = {NoneType, bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size}
"""Types that `weights_only` loads, besides tensors and containers."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEDY = "Delete it to load the checkpoint without verification"
_GLOBAL = re.compile(r"GLOBAL (\S+)")


class CheckpointError(RuntimeError):
    """Error when a checkpoint is not saved or loaded; the message names file, reason and remedy."""


def manifest_of(file: Path) -> Path:
    """Return the manifest of a file, which holds its SHA-256 in the format of `sha256sum`."""
    return file.with_name(f"{file.name}.sha256")


def write_checkpoint(file: Path, content: Mapping[str, Any]) -> None:
    """
    Write a checkpoint and its manifest, and sync both to the disk.

    Raises:
        CheckpointError: a tensor contains a NaN or an infinity, or an object could not be loaded
            again; the message names it. Nothing has been written.
        OSError: the write failed, e.g. the disk is full; the message names the file. No partial
            file is left, and older files are intact.
    """
    for problem in _problems(content):
        raise CheckpointError(f"{file} was not saved: {problem}")
    manifest = manifest_of(file)
    with UnfinishedFile(file) as new, UnfinishedFile(manifest) as line:
        torch.save(content, new)  # type: ignore[arg-type]  # it only calls `write`
        new.flush()
        line.write(f"{new.sha256}  {file.name}\n".encode())
        line.flush()
        # A process may be killed between any two of these steps. A new file without a manifest
        # counts as unverified; one with the manifest of the old file would count as damaged.
        manifest.unlink(missing_ok=True)
        new.finish()
        line.finish()
    sync_folder(file.parent)


def remove_unfinished_checkpoints(folder: Path) -> None:
    """Remove partial files of processes that were killed while saving."""
    for pattern in ("*.pth", "*.pth.sha256", LAST_CHECKPOINT):
        remove_unfinished(folder, pattern)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """
    Read a file that `torch.save` wrote. No code in the file is run.

    Returns:
        its content: a dictionary, with tensors on the CPU.

    Raises:
        CheckpointError: the file does not exist, is empty, truncated, damaged or not a checkpoint;
            or it contains objects other than tensors and plain values.
    """
    _warn_of_old_torch()
    with open_to_read(file) as stream:
        _check_whole(file, stream)
        _verify(file, stream)
        content = _load(file, stream)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file} is not a checkpoint: it contains a {type(content).__name__}, not a dictionary"
        )
    return content


def open_to_read(file: Path) -> BinaryIO:
    """
    Open a file for reading.

    Raises:
        CheckpointError: the file does not exist, cannot be opened, or is empty.
    """
    try:
        stream = file.open("rb")
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: file not found") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be opened: {error.strerror}") from error
    if not stream.read(1):
        stream.close()
        raise CheckpointError(f"{file} is empty: writing or copying it was interrupted")
    stream.seek(0)
    return stream


def _check_whole(file: Path, stream: BinaryIO) -> None:
    """Raise if the file is truncated: a file of `torch.save` is a zip with its index at the end."""
    if stream.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(stream):
        size = stream.seek(0, 2)
        raise CheckpointError(
            f"{file} is truncated: its end is missing after {size} bytes. Copy it again, or use "
            "an older checkpoint"
        )
    stream.seek(0)


def _verify(file: Path, stream: BinaryIO) -> None:
    manifest = manifest_of(file)
    try:
        expected = manifest.read_bytes().partition(b" ")[0].decode("ascii", errors="replace")
    except FileNotFoundError:
        logger.info(f"{file} could not be verified: {manifest.name} does not exist")
        return
    except OSError as error:
        raise CheckpointError(f"{manifest} cannot be read: {error.strerror}. {_REMEDY}") from error
    if not _SHA256.fullmatch(expected):
        raise CheckpointError(f"{manifest} is damaged: it holds no SHA-256. {_REMEDY}")
    actual = digest_of(stream)
    if actual != expected:
        raise CheckpointError(
            f"{file} is damaged: its SHA-256 is {actual}, but {manifest.name} says {expected}. "
            "Copy it again, or use an older checkpoint"
        )


def _load(file: Path, stream: BinaryIO) -> Any:
    try:
        return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = _GLOBAL.search(str(error))
        if found is None:
            raise CheckpointError(f"{file} is not a PyTorch checkpoint") from error
        raise CheckpointError(
            f"{file} contains an object other than a tensor, {found[1]}. It is not loaded, because "
            "that would run code in the file. Save only its weights: {'model': state_dict}"
        ) from error
    except Exception as error:  # random bytes raise arbitrary errors
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{file} is not a PyTorch checkpoint ({type(error).__name__}: {reason})"
        ) from error


@functools.cache  # warn only once
def _warn_of_old_torch() -> None:
    # TorchVersion receives its comparison with tuples at run time.
    if torch.__version__ < FIRST_SAFE_TORCH:  # type: ignore[operator]
        logger.warning(
            f"A checkpoint can make PyTorch {torch.__version__} run code "
            "(CVE-2025-32434, CVE-2026-24747): load only trusted checkpoints, or update to "
            f"{'.'.join(map(str, FIRST_SAFE_TORCH))}"
        )


def _problems(value: Any, name: str = "") -> Iterator[str]:
    """Yield a sentence for each value that a checkpoint must not contain."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            bad = value.numel() - int(value.isfinite().sum())
            if bad:
                yield (
                    f"{bad} of the {value.numel()} numbers in {name} are not finite. Earlier "
                    "checkpoints are unchanged"
                )
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _problems(key, f"a key of {name}")
            yield from _problems(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple | set):
        for i, item in enumerate(value):
            yield from _problems(item, f"{name}[{i}]")
    elif type(value) not in PLAIN_TYPES:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        yield (
            f"{name} is a {kind}, which could not be loaded again. A state must consist of "
            "tensors, numbers, strings, lists and dictionaries"
        )
