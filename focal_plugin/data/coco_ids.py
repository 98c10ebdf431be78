"""
One rule for the ids of images, categories and annotations, for all readers of a COCO file.

An id is an integer of 64 bits, an integral float up to 2**53, or a printable text. Numbers are
equal if their values are: 1.0 is 1. The ids of one list are all numbers or all texts, because
Detectron2 sorts them and pycocotools stores them in one array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeGuard

Id = int | float | str
Kind = Literal["number", "text"]

MAX_INTEGER = 2**63 - 1
MAX_FLOAT = 2**53
"""Largest number up to which a float64 holds every integer."""

MAX_LENGTH = 200
"""Maximum number of characters of a text."""

LEGAL = "an integer of at most 64 bits, or a text; in one list, all numbers or all texts"


def is_id(value: Any) -> TypeGuard[Id]:
    """Return True if a value of a JSON is an id. Truth values, NaN, infinity and 1.5 are not."""
    kind = type(value)
    if kind is int:
        return abs(value) <= MAX_INTEGER
    if kind is float:
        return abs(value) <= MAX_FLOAT and value.is_integer()
    return kind is str and 0 < len(value) <= MAX_LENGTH and value.isprintable()


def kind_of(value: Any) -> Kind | None:
    """Return the kind of an id, or None if the value is not an id."""
    if not is_id(value):
        return None
    return "text" if isinstance(value, str) else "number"


def wrong_ids(values: Sequence[Any]) -> list[int]:
    """Return the rows of values that are not ids, or not of the kind of the other ids."""
    if set(map(type, values)) == {int} and is_id(min(values)) and is_id(max(values)):
        return []  # the common case, of up to millions of ids
    kinds = [kind_of(value) for value in values]
    legal = "text" if kinds.count("text") > kinds.count("number") else "number"
    # One float makes numpy convert all integers of an array.
    floats = any(kind and type(x) is float for x, kind in zip(values, kinds, strict=True))
    limit = MAX_FLOAT if floats else MAX_INTEGER
    return [
        row
        for row, (value, kind) in enumerate(zip(values, kinds, strict=True))
        if kind != legal or (kind == "number" and abs(value) > limit)
    ]


def canonical(value: Id) -> int | str:
    """Return one id for all that are equal: the integer of a float."""
    return value if isinstance(value, str) else int(value)
