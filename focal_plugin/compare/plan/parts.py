"""Parts of a spec on several datasets: one for each dataset, or one for each fold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data import DatasetArgument, coco_file_of, fold_coco
from ...files import write_text
from ...names import shown
from .seeds import integer

DATASET_KEYS = ("train", "test", "opts")
FOLD_KEYS = ("number", "seed")
MAX_FOLDS = 100
FOLD_FOLDER = "data"
"""Folder of the files of a fold, below that of its comparison."""


@dataclass(frozen=True)
class DatasetPart:
    """
    One of several datasets of a spec.

    Attributes:
        train, test: names of its training set and of its test set.
        files: the ones that are given as files.
        opts: KEY, VALUE, ... for this dataset.
    """

    name: str
    train: str
    test: str
    files: tuple[DatasetArgument, ...] = ()
    opts: tuple[str, ...] = ()

    @property
    def all_opts(self) -> tuple[str, ...]:
        """Options that choose the dataset, and its own."""
        chosen = ("DATASETS.TRAIN", repr((self.train,)), "DATASETS.TEST", repr((self.test,)))
        return (*chosen, *self.opts)


@dataclass(frozen=True)
class Folds:
    """Folds of a cross-validation of the training set; ``seed`` decides which images they have."""

    number: int
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts."""
        return tuple(f"fold-{i}" for i in range(1, self.number + 1))


ReadFile = Callable[[str, str, str], DatasetArgument]
"""Function of a name, of the text `JSON:IMAGES`, and of the place for messages."""


def read_dataset_part(
    name: str,
    entry: Mapping[Any, Any],
    read_file: ReadFile,
    read_opts: Callable[[Any, str], tuple[str, ...]],
) -> DatasetPart:
    """
    Read one dataset of several.

    Args:
        entry: `train` and `test`, each `JSON:IMAGES` or the name of a dataset, and `opts`.

    Raises:
        ValueError: the entry is malformed.
        KeyError: a key does not exist.
        FileNotFoundError: a file does not exist.
    """
    place = f"datasets: {shown(name)}"
    for key in entry:
        if key not in DATASET_KEYS:
            known = ", ".join(DATASET_KEYS)
            raise KeyError(f"{place}: no key is named {shown(key)}; known: {known}")
    names, files = {}, []
    for use in ("train", "test"):
        text = entry.get(use)
        if not isinstance(text, str) or not text:
            raise ValueError(
                f"{place}: {use} must be JSON:IMAGES or the name of a dataset, got {shown(text)}"
            )
        names[use] = text
        if ":" in text:
            names[use] = f"{name}_{use}"
            files.append(read_file(names[use], text, f"{place}: {use}"))
    opts = read_opts(entry.get("opts", []), f"{place}: opts")
    for key in ("DATASETS.TRAIN", "DATASETS.TEST"):
        if key in opts[::2]:
            raise ValueError(f"{place}: {key} is not an option: use the keys train and test")
    return DatasetPart(name, names["train"], names["test"], tuple(files), opts)


def read_folds(value: Any) -> Folds | None:
    """
    Read the key `folds` of a spec: a number, or {number: N, seed: SEED}.

    Raises:
        ValueError: the value is malformed.
        KeyError: a key of the mapping does not exist.
    """
    if value is None:
        return None
    section = value if isinstance(value, dict) else {"number": value}
    for key in section:
        if key not in FOLD_KEYS:
            raise KeyError(f"no key of folds is named {shown(key)}; known: {', '.join(FOLD_KEYS)}")
    number = integer(section.get("number"), "folds", 2)
    if number > MAX_FOLDS:
        raise ValueError(f"folds must be at most {MAX_FOLDS}, got {number}")
    return Folds(number, integer(section.get("seed", 0), "folds: seed", 0))


def without_datasets(opts: tuple[str, ...]) -> tuple[str, ...]:
    """Return KEY, VALUE, ... without the keys that choose the datasets."""
    pairs = zip(opts[::2], opts[1::2], strict=True)
    return tuple(part for pair in pairs if not pair[0].startswith("DATASETS.") for part in pair)


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
            text = json.dumps(half, ensure_ascii=False)
            if not file.is_file() or file.read_text(encoding="utf-8") != text:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text(file, text)
            files.append(DatasetArgument(f"fold{i}_{use}", file, source.image_root.resolve()))
        parts.append(DatasetPart(part, files[0].name, files[1].name, tuple(files)))
    return tuple(parts)
