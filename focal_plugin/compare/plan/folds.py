"""Files of the folds of a cross-validation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...data import DatasetArgument, coco_file_of, fold_coco
from ...files import write_if_other
from .parts import DatasetPart, Folds

FOLD_FOLDER = "data"
"""Folder of the files of a fold, below that of its comparison."""


def write_folds(name: str, folds: Folds, folders: Sequence[Path]) -> tuple[DatasetPart, ...]:
    """
    Write the folds of a registered dataset as COCO files `train.json` and `test.json`.

    A file that has the right content stays as it is.

    Args:
        name: the dataset.
        folders: one folder for each fold, which need not exist.

    Raises:
        DataError: the dataset has no COCO file, or too few images.
    """
    source = coco_file_of(name)
    content = json.loads(source.json_file.read_text(encoding="utf-8"))
    splits = fold_coco(content, source.image_root, folds=folds.number, seed=folds.seed)
    parts = []
    for i, (part, split, folder) in enumerate(zip(folds.names, splits, folders, strict=True), 1):
        files = []
        for use, half in (("train", split.train), ("test", split.val)):
            file = folder.resolve() / f"{use}.json"
            write_if_other(file, json.dumps(half, ensure_ascii=False).encode())
            files.append(DatasetArgument(f"fold{i}_{use}", file, source.image_root.resolve()))
        parts.append(DatasetPart(part, files[0].name, files[1].name, tuple(files)))
    return tuple(parts)
