"""Datasets of a spec, and its parts: one for each dataset to compare on, or one for each fold."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data import DatasetArgument, parse_dataset_argument
from ...names import shown
from .seeds import SeedChoice, integer
from .spec_arms import read_name, read_opts

DATASET_KEYS = ("train", "test", "opts")
FOLD_KEYS = ("number", "seed")
MAX_FOLDS = 100
CHOSEN = ("DATASETS.TRAIN", "DATASETS.TEST")
"""Config keys that a part sets."""


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


def read_datasets(
    section: Mapping[Any, Any], folder: Path
) -> tuple[tuple[DatasetArgument, ...], tuple[DatasetPart, ...]]:
    """
    Read the key `datasets` of a spec.

    Args:
        section: name -> `JSON:IMAGES`, or `train`, `test` and `opts`, where each set is
            `JSON:IMAGES` or the name of a dataset.
        folder: folder that files are relative to.

    Returns:
        the datasets to register, and those to compare on.

    Raises:
        ValueError: an entry is malformed.
        KeyError: a key does not exist.
        FileNotFoundError: a file does not exist.
    """
    files, parts = [], []
    for name, entry in section.items():
        if isinstance(entry, dict):
            parts.append(_part(read_name(name, "dataset"), entry, folder))
        else:
            files.append(_dataset(name, entry, folder, f"datasets: {shown(name)}"))
    return tuple(files), tuple(parts)


def _part(name: str, entry: Mapping[Any, Any], folder: Path) -> DatasetPart:
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
            files.append(_dataset(names[use], text, folder, f"{place}: {use}"))
    opts = read_opts(entry.get("opts", []), f"{place}: opts")
    for key in CHOSEN:
        if key in opts[::2]:
            raise ValueError(f"{place}: {key} is not an option: use the keys train and test")
    return DatasetPart(name, names["train"], names["test"], tuple(files), opts)


def _dataset(name: Any, text: Any, folder: Path, place: str) -> DatasetArgument:
    json_text, _, images_text = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not (isinstance(name, str) and name and json_text and images_text):
        raise ValueError(f"{place} must be NAME: annotations.json:image_dir, got {shown(text)}")
    json_file = _existing(json_text, folder, Path.is_file, f"{place}: no file")
    image_root = _existing(images_text, folder, Path.is_dir, f"{place}: no directory")
    dataset = DatasetArgument(name, json_file, image_root)
    if parse_dataset_argument(as_argument(dataset)) != dataset:
        raise ValueError(
            f'{place}: a name must not contain "=", and an image directory must not contain ":"'
        )
    return dataset


def _existing(text: str, folder: Path, exists: Callable[[Path], bool], error: str) -> Path:
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # a name that no file can have
        path = (folder / Path(text.strip()).expanduser()).resolve()
        if exists(path):
            return path
    raise FileNotFoundError(f"{error} {shown(text)}, seen from {folder}")


def as_argument(dataset: DatasetArgument) -> str:
    """Return a dataset in the form of `train_net.py --dataset`."""
    return f"{dataset.name}={dataset.json_file}:{dataset.image_root}"


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


def check_parts(
    parts: tuple[DatasetPart, ...],
    folds: Folds | None,
    seeds: SeedChoice,
    opts: Iterable[tuple[str, ...]],
) -> None:
    """
    Check what a comparison on several datasets or folds requires of the rest of the spec.

    Args:
        opts: KEY, VALUE, ... of the spec and of each arm.

    Raises:
        ValueError: the rest of the spec does not fit.
    """
    if not parts and folds is None:
        return
    several = "folds" if folds else "datasets"
    if parts and folds is not None:
        raise ValueError("folds and several datasets to compare on cannot be combined")
    if len(parts) == 1:
        raise ValueError(
            f"datasets: {shown(parts[0].name)} is the only one to compare on; name it in opts with "
            "DATASETS.TRAIN and DATASETS.TEST"
        )
    if seeds.has_looks:
        raise ValueError(
            f"{several}: a verdict over all of them requires a fixed number of seeds, without looks"
        )
    for key in sorted({*CHOSEN} & {key for each in opts for key in each[::2]}):
        if parts or key == "DATASETS.TEST":
            raise ValueError(f"{several}: they set {key}, so it cannot be an option")
