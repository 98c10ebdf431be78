"""JSON files whose content has a known form, so that a damaged file is told by its name."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

INTEGERS = range(-(2**63), 2**63)
"""Integers that every part of the package can compute with."""


class DamagedFileError(ValueError):
    """Error for a file that exists, but cannot be read; the message names file and fault."""

    def __init__(self, file: Path, fault: str) -> None:
        super().__init__(f"{file} is damaged: {fault}")


def read_object(kind: type[T], file: Path) -> T | None:
    """
    Read a dataclass from a file that holds one JSON object.

    Args:
        kind: dataclass, see :func:`as_type`.

    Returns:
        None if the file does not exist.

    Raises:
        DamagedFileError: the file cannot be read, or does not hold such an object.
    """
    return undamaged(file, lambda: as_type(kind, json.loads(file.read_text(encoding="utf-8"))))


def undamaged(file: Path, read: Callable[[], T]) -> T | None:
    """
    Return the result of ``read``, which reads ``file``; None if the file does not exist.

    Raises:
        DamagedFileError: the file cannot be read, or its content is not what ``read`` expects.
    """
    try:
        return read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except json.JSONDecodeError as error:
        raise DamagedFileError(file, _json_fault(error)) from error
    except OSError as error:
        raise DamagedFileError(file, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise DamagedFileError(file, f"it is not text: {error}") from error
    except RecursionError as error:
        raise DamagedFileError(file, "it is nested too deeply") from error
    except ValueError as error:
        raise DamagedFileError(file, str(error)) from error


def as_type(kind: Any, value: Any, name: str = "") -> Any:
    """
    Return a parsed JSON value as a type, checked down to its last item.

    Args:
        kind: dataclass, `dict[str, X]`, `tuple[X, ...]`, `X | None`, str, bool, int or float.
        name: name of the value for messages.

    Returns:
        the value; an object as the dataclass, a list as a tuple. An object may lack fields that
        have a default, and its unknown keys are ignored: it may be from another version.

    Raises:
        ValueError: the value has another type, or is not finite; the message names it.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (kind,) = set(arguments) - {types.NoneType}
        return as_type(kind, value, name)
    if origin is tuple and isinstance(value, list):
        return tuple(as_type(arguments[0], x, f"{name}[{i}]") for i, x in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: as_type(arguments[1], x, _join(name, key)) for key, x in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _as_dataclass(kind, value, name)
    if kind is float and type(value) in (int, float) and abs(value) <= _LARGEST_FLOAT:
        return value
    if kind is int and type(value) is int and value in INTEGERS:
        return value
    if kind is bool and type(value) is bool:
        return value
    if kind is str and isinstance(value, str) and _is_text(value):
        return value
    _refuse(kind, value, name)


_LARGEST_FLOAT = math.nextafter(math.inf, 0)
_EXPECTED = {int: "an integer", float: "a finite number", str: "text", bool: "true or false"}


def _json_fault(error: json.JSONDecodeError) -> str:
    return f"it is not JSON: {error}" if error.doc.strip() else "it is empty"


def _as_dataclass(kind: Any, value: dict[str, Any], name: str) -> Any:
    hints = get_type_hints(kind)
    known = {}
    for field in fields(kind):
        if field.name in value:
            known[field.name] = as_type(
                hints[field.name], value[field.name], _join(name, field.name)
            )
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{_join(name, field.name)} is missing")
    return kind(**known)


def _refuse(kind: Any, value: Any, name: str) -> NoReturn:
    expected = "a list" if get_origin(kind) is tuple else _EXPECTED.get(kind, "an object")
    text = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}..."
    raise ValueError(f"{name or 'it'} must be {expected}, got {text}")


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _is_text(value: str) -> bool:
    """Return False for half of a surrogate pair, which no file could hold again."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
