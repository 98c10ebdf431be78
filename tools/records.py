"""Measurements that grow from day to day: a JSON list with one record a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from focal_plugin.files import write_text

R = TypeVar("R", bound=Any)  # a dataclass with a `key`


def read_records(kind: type[R], file: Path) -> list[R]:
    """Read the records of a file; no file has none."""
    if not file.is_file():
        return []
    return [kind(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]


def updated(records: Iterable[R], others: Iterable[R]) -> list[R]:
    """Return both, sorted by their key; the others replace those with the same key."""
    by_key = {record.key: record for record in (*records, *others)}
    return [by_key[key] for key in sorted(by_key)]


def write_records(file: Path, records: Iterable[Any]) -> None:
    """Write one record a line."""
    lines = ",\n".join(f" {json.dumps(asdict(record))}" for record in records)
    write_text(file, f"[\n{lines}\n]\n")
