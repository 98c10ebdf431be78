"""Files that several processes read while one writes them, and what is in a file."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_text(file: Path, text: str) -> None:
    """All or nothing: a reader, or a crash, never sees half of it."""
    unfinished = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        with unfinished.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


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
