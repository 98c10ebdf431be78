"""Splits of a dataset: images that two of them share, and classes that differ or are too small."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .class_shares import class_drift, count_by_class, decidable_classes
from .file_copies import UNREADABLE, content_ids
from .near_copies import Thumbnails, near_copies_of, near_copies_within, read_thumbnails
from .object_table import ObjectTable

LISTED = 20
"""Pairs of images, and unreadable files, that are listed; all are counted."""

Pairs = list[tuple[str, str]]
"""Copies, each with the image that it repeats."""


class _Split(NamedTuple):
    """Files of a split, each once, and the identities of their contents."""

    files: list[str]
    ids: np.ndarray


def split_facts(
    train: ObjectTable, tests: Sequence[ObjectTable], *, images: bool
) -> dict[str, Any]:
    """
    Compare the training set with the test sets.

    Args:
        train: the training set.
        tests: one per test set; may be empty.
        images: whether to decode all images in search of near copies.

    Returns:
        JSON values:

        * `train`, and `tests` as a list: `name`, `images` (distinct files), `readable` ones,
          `copies` and `near_copies`. `copies` are images with the bytes of another training image.
          `near_copies` are images with the picture of one in other bytes; None without ``images``.
          Both have the number of `images`, and the first `pairs`, each a copy and its original.
        * each of `tests` also: `drift` by :func:`~focal_plugin.audit.class_shares.class_drift` and
          `classes` by :func:`~focal_plugin.audit.class_shares.decidable_classes`.
        * `unreadable`: the number of `images`, and the first `files`, each a `file` and a `reason`.
    """
    splits, problems = _read_splits([train, *tests])
    copies = [_copies_within(splits[0]), *(_copies_of(s, splits[0]) for s in splits[1:])]
    near: list[Pairs | None] = [None] * len(splits)
    if images:
        near = [*_near_copies(splits, copies, problems)]
    sets: list[dict[str, Any]] = [
        {
            "name": ", ".join(table.names),
            "images": len(split.files),
            "readable": sum(file not in problems for file in split.files),
            "copies": _listed(exact),
            "near_copies": None if alike is None else _listed(alike),
        }
        for table, split, exact, alike in zip([train, *tests], splits, copies, near, strict=True)
    ]
    names, counts = count_by_class([train, *tests])
    for facts, of_test in zip(sets[1:], counts[1:], strict=True):
        facts["drift"] = class_drift(names, counts[0], of_test)
        facts["classes"] = decidable_classes(names, counts[0], of_test)
    return {"train": sets[0], "tests": sets[1:], "unreadable": _unreadable(problems)}


def _read_splits(tables: Sequence[ObjectTable]) -> tuple[list[_Split], dict[str, str]]:
    files = [list(dict.fromkeys(table.file_names)) for table in tables]
    contents = content_ids([file for split in files for file in split])
    ends = np.cumsum([len(split) for split in files])
    ids = np.split(contents.ids, ends[:-1])
    return [_Split(*split) for split in zip(files, ids, strict=True)], contents.problems


def _copies_within(split: _Split) -> Pairs:
    first: dict[int, str] = {}
    pairs = [
        (file, first.setdefault(content, file))
        for file, content in zip(split.files, split.ids.tolist(), strict=True)
        if content != UNREADABLE
    ]
    return [(file, original) for file, original in pairs if file != original]


def _copies_of(split: _Split, train: _Split) -> Pairs:
    original = dict(zip(reversed(train.ids.tolist()), reversed(train.files), strict=True))
    return [
        (file, original[content])
        for file, content in zip(split.files, split.ids.tolist(), strict=True)
        if content in original and content != UNREADABLE
    ]


def _near_copies(
    splits: Sequence[_Split], copies: Sequence[Pairs], problems: dict[str, str]
) -> Iterable[Pairs]:
    """Yield the near copies of each split, and write the files that cannot be decoded."""
    train = _thumbnails(splits[0], copies[0], problems)
    yield near_copies_within(train)
    for split, exact in zip(splits[1:], copies[1:], strict=True):
        yield near_copies_of(_thumbnails(split, exact, problems), train)


def _thumbnails(split: _Split, copies: Pairs, problems: dict[str, str]) -> Thumbnails:
    left_out: Collection[str] = {*problems, *(file for file, _ in copies)}
    thumbnails = read_thumbnails([file for file in split.files if file not in left_out])
    problems.update(thumbnails.problems)
    return thumbnails


def _listed(pairs: Pairs) -> dict[str, Any]:
    return {"images": len(pairs), "pairs": [list(pair) for pair in pairs[:LISTED]]}


def _unreadable(problems: dict[str, str]) -> dict[str, Any]:
    files = [{"file": file, "reason": reason} for file, reason in problems.items()]
    return {"images": len(files), "files": files[:LISTED]}
