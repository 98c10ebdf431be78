"""Files that several processes read while one writes them, and what is in a file."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_all(files: Mapping[Path, bytes]) -> None:
    """
    Each of them all or nothing: a reader, or a crash, never sees half of it. Everything is written
    beside the old files before the first of them is replaced, in the given order.
    """
    unfinished: list[tuple[Path, Path]] = []
    try:
        for file, content in files.items():
            beside = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
            unfinished.append((beside, file))
            with beside.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        for beside, file in unfinished:
            beside.replace(file)
    finally:
        for beside, _ in unfinished:
            beside.unlink(missing_ok=True)


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
    """Hexadecimal; read in pieces, because annotations may be half a gigabyte."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
