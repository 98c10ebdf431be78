"""Datasets of `focal-plugin init`: files, or names that are registered."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data import (
    DataError,
    DatasetArgument,
    check_coco,
    count_objects,
    one_sided_classes,
    registered,
    split_coco,
)
from ..files import write_text
from ..names import did_you_mean, shown

SHARE = 0.2
"""Share of the images in the validation part."""

SPLIT_SEED = 0
"""Seed of the split into training and validation."""


class Sources(NamedTuple):
    """
    Training and validation set.

    Attributes:
        train, test: names of the datasets.
        files: the datasets that have to be registered, by the spec too.
        notes: label -> sentence on how they were made, for people.
    """

    train: str
    test: str
    files: tuple[DatasetArgument, ...]
    notes: Mapping[str, str]


def find_sources(train: str, val: str | None, *, prefix: str, folder: Path) -> Sources:
    """
    Return the datasets of the arguments `--train` and `--val`.

    Args:
        train, val: JSON:IMAGES, or the name of a registered dataset. Without ``val``, the images of
            ``train`` are split.
        prefix: start of the names of files that are registered.
        folder: folder for the two files of a split.

    Raises:
        FileNotFoundError: a file or a folder does not exist.
        KeyError: no dataset has this name.
        ValueError: an argument has another form, or a registered dataset should be split.
        DataError: the file to split has errors, no objects, or too few images.
    """
    name, test = f"{prefix}_train", f"{prefix}_val"
    if val is not None:
        given = (_source("--train", train, name), _source("--val", val, test))
        files = tuple(each for each in given if isinstance(each, DatasetArgument))
        name, test = (each if isinstance(each, str) else each.name for each in given)
        return Sources(name, test, files, {})
    source = _source("--train", train, name)
    if isinstance(source, str):
        raise ValueError(f"{source} is registered, and only a file can be split: give --val, too")
    parts, notes = _split(source, folder)
    root = source.image_root
    files = tuple(DatasetArgument(n, f, root) for n, f in zip((name, test), parts, strict=True))
    return Sources(name, test, files, notes)


def dataset_prefix(name: str) -> str:
    """Return a name as the start of the name of a dataset: letters, digits, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "data"


def _source(flag: str, text: str, name: str) -> DatasetArgument | str:
    json_text, _, root_text = text.rpartition(":")
    if json_text and root_text:
        json_file, image_root = (Path(part).expanduser() for part in (json_text, root_text))
        if not json_file.is_file():
            raise FileNotFoundError(f"{flag}: there is no file {shown(json_text)}")
        if not image_root.is_dir():
            raise FileNotFoundError(f"{flag}: there is no folder {shown(root_text)}")
        return DatasetArgument(name, json_file, image_root)
    known = DatasetCatalog.list()
    if text in known:
        return text
    if "/" in text or text.endswith(".json"):
        raise ValueError(f"{flag} must be JSON:IMAGES, or the name of a dataset, got {shown(text)}")
    raise KeyError(
        f"{flag}: no dataset is named {shown(text)}; give JSON:IMAGES, or --import a module that "
        f"registers it{did_you_mean(text, known, cutoff=0.85)}"
    )


def _split(source: DatasetArgument, folder: Path) -> tuple[list[Path], dict[str, str]]:
    with registered([source]):
        checked = Path(MetadataCatalog.get(source.name).json_file)  # with crowds for ignore regions
        report = check_coco(checked, source.image_root)
        report.raise_if_bad()
        if not any(count_objects([source.name], num_classes=len(report.facts["classes"]))):
            raise DataError(f"{source.json_file} has no objects: there is nothing to learn")
    content: dict[str, Any] = json.loads(source.json_file.read_text(encoding="utf-8"))
    try:
        split = split_coco(content, source.image_root, share=SHARE, seed=SPLIT_SEED)
    except DataError as error:
        raise DataError(f"{error}; give --val JSON:IMAGES") from None
    parts = (split.train, split.val)
    files = [folder / "train.json", folder / "val.json"]
    for file, part in zip(files, parts, strict=True):
        write_text(file, json.dumps(part, ensure_ascii=False))
    note = f"{SHARE:.0%} of the images are for validation, stratified by class, seed {SPLIT_SEED}"
    if split.copies:
        note += f"; {split.copies} copies of images are in the part of their original"
    if one_sided := one_sided_classes(parts):
        few = ", ".join(one_sided[:5]) + (", ..." if len(one_sided) > 5 else "")
        note += f"; too few images to have objects in both parts: {few}"
    return files, {"split": note}
