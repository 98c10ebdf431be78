"""A checkpoint as a file: written whole or not at all, and checked before it is used."""

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
"""Before it, a file could outwit `weights_only` (CVE-2025-32434, CVE-2026-24747)."""

PLAIN_TYPES = {NoneType, bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size}
"""What can be loaded with `weights_only`, besides tensors and what holds these."""

_GLOBAL = re.compile(r"GLOBAL (\S+)")


class CheckpointError(RuntimeError):
    """
    A checkpoint that is not saved, or not loaded: which file, why, and what to do.

    Attributes:
        raised_by_all: all processes raise it, so that one of them may tell it for all.
    """

    raised_by_all = False


def manifest_of(file: Path) -> Path:
    """The file beside it with its SHA-256, for `sha256sum --check` too."""
    return file.with_name(f"{file.name}.sha256")


def write_checkpoint(file: Path, content: Mapping[str, Any]) -> None:
    """
    Write a checkpoint and its manifest; after this both are on the disk.

    Raises:
        CheckpointError: a tensor holds a NaN or an infinity, or there is an object that could not
            be loaded again; the message names it. Nothing has been written.
        OSError: such as a full disk; it names the file. Nothing is left, older files are intact.
    """
    for problem in _problems(content):
        raise CheckpointError(f"{file} is not saved: {problem}")
    manifest = manifest_of(file)
    with UnfinishedFile(file) as new, UnfinishedFile(manifest) as line:
        torch.save(content, new)  # type: ignore[arg-type]  # it calls `write` alone
        new.flush()
        line.write(f"{new.sha256}  {file.name}\n".encode())
        line.flush()
        # A process may be killed between any two of these: a new file without a manifest counts as
        # not verified, one with the manifest of the old file would count as damaged.
        manifest.unlink(missing_ok=True)
        new.finish()
        line.finish()
    sync_folder(file.parent)


def remove_unfinished_checkpoints(folder: Path) -> None:
    """Remove what processes that were killed while they saved have left."""
    for pattern in ("*.pth", "*.pth.sha256", LAST_CHECKPOINT):
        remove_unfinished(folder, pattern)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """
    Returns:
        what is in a file that `torch.save` wrote: a dictionary, tensors on the CPU.

    Raises:
        CheckpointError: there is no such file; it is empty, cut off, not what was saved, or no
            checkpoint; or it holds other objects than tensors and plain values. No code in the
            file is run.
    """
    _warn_of_old_torch()
    with open_to_read(file) as stream:
        _check_whole(file, stream)
        _verify(file, stream)
        content = _load(file, stream)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file} is no checkpoint: it holds a {type(content).__name__}, not a dictionary"
        )
    return content


def open_to_read(file: Path) -> BinaryIO:
    """
    Raises:
        CheckpointError: there is no such file, it cannot be opened, or it is empty.
    """
    try:
        stream = file.open("rb")
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: there is no such file") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be opened: {error.strerror}") from error
    if not stream.read(1):
        stream.close()
        raise CheckpointError(f"{file} is empty: whatever wrote it was interrupted, or copied it")
    stream.seek(0)
    return stream


def _check_whole(file: Path, stream: BinaryIO) -> None:
    """A file of `torch.save` is a zip archive, whose table of contents is its end."""
    if stream.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(stream):
        size = stream.seek(0, 2)
        raise CheckpointError(
            f"{file} is truncated: its end is missing after {size} bytes. Copy it again, or take "
            "an older checkpoint"
        )
    stream.seek(0)


def _verify(file: Path, stream: BinaryIO) -> None:
    manifest = manifest_of(file)
    if not manifest.is_file():
        logger.info(f"{file} could not be verified: there is no {manifest.name} beside it")
        return
    expected = manifest.read_text(encoding="utf-8", errors="replace").partition(" ")[0]
    actual = digest_of(stream)
    if actual != expected:
        raise CheckpointError(
            f"{file} is damaged: its SHA-256 is {actual}, but {manifest.name} says {expected}. "
            "Copy it again, or take an older checkpoint"
        )


def _load(file: Path, stream: BinaryIO) -> Any:
    try:
        return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = _GLOBAL.search(str(error))
        if found is None:
            raise CheckpointError(f"{file} is no checkpoint of PyTorch") from error
        raise CheckpointError(
            f"{file} holds an object other than a tensor, {found[1]}. It is not loaded, because "
            "that would run code in the file. Save its weights alone: {'model': state_dict}"
        ) from error
    except Exception as error:  # bytes at random raise whatever they like
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{file} is no checkpoint of PyTorch ({type(error).__name__}: {reason})"
        ) from error


@functools.cache  # one warning is enough
def _warn_of_old_torch() -> None:
    # TorchVersion gets its comparison with tuples at run time
    if torch.__version__ < FIRST_SAFE_TORCH:  # type: ignore[operator]
        logger.warning(
            f"PyTorch {torch.__version__} can be made to run code by a checkpoint "
            "(CVE-2025-32434, CVE-2026-24747): load only those that you trust, or update to "
            f"{'.'.join(map(str, FIRST_SAFE_TORCH))}"
        )


def _problems(value: Any, name: str = "") -> Iterator[str]:
    """Sentences about what must not be in a checkpoint."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            bad = value.numel() - int(value.isfinite().sum())
            if bad:
                yield (
                    f"{bad} of the {value.numel()} numbers in {name} are not finite. What was "
                    "saved before is as it was"
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
            f"{name} is a {kind}, which could not be loaded again. A state must be of tensors, "
            "numbers, strings, lists and dictionaries"
        )
