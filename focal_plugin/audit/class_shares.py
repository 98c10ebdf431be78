"""
Classes of a training set against those of a test set.

Shape shorthand:
    T: number of tables
    K: number of classes of all tables together
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from .object_table import ObjectTable

Z95 = 1.96
"""Half width of a 95% interval of a normal distribution, in standard deviations."""


def count_by_class(tables: Sequence[ObjectTable]) -> tuple[list[str], np.ndarray]:
    """
    Count the objects of several tables, whose classes may differ in their order and number.

    Classes are the same if their names are. If a table has no names, or a name twice, they are the
    same if their indices are.

    Returns:
        K names, and the counts (T, K), int64.
    """
    names = [_names_of(table) for table in tables]
    are_named = all(table.class_names for table in tables)
    if not are_named or any(len(set(own)) < len(own) for own in names):
        names = [max(names, key=len)] * len(tables)
    union = list(dict.fromkeys(chain(*names)))
    place = {name: index for index, name in enumerate(union)}
    counts = np.zeros((len(tables), len(union)), dtype=np.int64)
    for row, table, own in zip(counts, tables, names, strict=True):
        np.add.at(row, [place[name] for name in own], table.objects_per_class(len(own)))
    return union, counts


def _names_of(table: ObjectTable) -> list[str]:
    largest = int(table.classes.max(initial=-1))
    more = range(len(table.class_names), largest + 1)
    return [*table.class_names, *(f"class {index}" for index in more)]


def class_drift(names: Sequence[str], train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """
    Compare the shares of the classes.

        total variation = sum over classes |share in train - share in test| / 2

    Args:
        names: K names.
        train, test: (K,), numbers of objects.

    Returns:
        `total_variation` in [0, 1]; `expected`, its mean for two random samples of these sizes
        from the same classes; both None if a set has no objects. `only_train` and `only_test`
        have the names of the classes that the other set lacks.
    """
    facts: dict[str, Any] = {
        "total_variation": None,
        "expected": None,
        "only_train": [name for name, a, b in zip(names, train, test, strict=True) if a and not b],
        "only_test": [name for name, a, b in zip(names, train, test, strict=True) if b and not a],
    }
    if train.sum() and test.sum():
        difference = train / train.sum() - test / test.sum()
        pooled = (train + test) / (train.sum() + test.sum())
        # The mean of |x| is sqrt(2 / pi) standard deviations for a normal x
        variance = pooled * (1 - pooled) * (1 / train.sum() + 1 / test.sum())
        facts["total_variation"] = float(np.abs(difference).sum() / 2)
        facts["expected"] = float(np.sqrt(2 / math.pi * variance).sum() / 2)
    return facts


def decidable_classes(
    names: Sequence[str], train: np.ndarray, test: np.ndarray
) -> list[dict[str, Any]]:
    """
    Return how well a test set can decide about each class that it or the training set has.

    Args:
        names: K names.
        train, test: (K,), numbers of objects.

    Returns:
        one dict per class, the worst first: its `name`, its objects in `train` and `test`, and the
        `half_width` of the 95% interval of a recall of .5, at most .5; None without test objects.
    """
    found = [
        {"name": name, "train": int(a), "test": int(b), "half_width": half_width(int(b))}
        for name, a, b in zip(names, train, test, strict=True)
        if a or b
    ]
    return sorted(found, key=lambda fact: fact["test"])


def half_width(objects: int) -> float | None:
    """Return the half width of the 95% interval of a recall of .5; None for no objects."""
    return min(0.5, Z95 * math.sqrt(0.25 / objects)) if objects else None
