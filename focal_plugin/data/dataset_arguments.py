"""Use of the registered datasets by a config, for `--dataset` and the `datasets` of a spec."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..names import did_you_mean, shown
from .registration import DatasetArgument, parse_dataset_argument, register_coco_dataset

KEYS = ("DATASETS.TRAIN", "DATASETS.TEST")


def register_datasets(arguments: Sequence[str], ignored: Sequence[str] = ()) -> list[str]:
    """
    Register the datasets of `--dataset`, and return their names.

    The name of a registered dataset stands for itself.

    Args:
        ignored: names of categories whose annotations are ignore regions, of `--ignore-category`.

    Raises:
        FileNotFoundError: a file or a folder does not exist.
        ValueError: an argument has another form, or its name is taken; or no dataset has an ignored
            category.
    """
    known = DatasetCatalog.list()
    datasets = [None if text in known else parse_dataset_argument(text) for text in arguments]
    for dataset in datasets:
        if dataset is not None:
            register_coco_dataset(dataset, ignored)
    names = [
        text if dataset is None else dataset.name
        for text, dataset in zip(arguments, datasets, strict=True)
    ]
    check_ignored(ignored, names)
    return names


@contextlib.contextmanager
def registered(datasets: Iterable[DatasetArgument], ignored: Sequence[str] = ()) -> Iterator[None]:
    """
    Register datasets inside the context, unless they are registered already.

    Args:
        ignored: names of categories whose annotations are ignore regions.

    Raises:
        FileNotFoundError: a JSON file or an image directory does not exist.
        ValueError: a name is taken by another dataset, or a JSON has no categories; or no dataset
            has an ignored category.
    """
    datasets, added = list(datasets), []
    try:
        for dataset in datasets:
            if not _is_registered(dataset):
                register_coco_dataset(dataset, ignored)
                added.append(dataset.name)
        check_ignored(ignored, [dataset.name for dataset in datasets])
        yield
    finally:
        for name in added:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def _is_registered(dataset: DatasetArgument) -> bool:
    if dataset.name not in DatasetCatalog.list():
        return False
    return MetadataCatalog.get(dataset.name).get("given_json_file") == str(dataset.json_file)


def check_ignored(ignored: Sequence[str], names: Sequence[str]) -> None:
    """
    Raise an error if no registered dataset has an ignored category.

    Raises:
        ValueError: the message names the nearest category.
    """
    metadata = [MetadataCatalog.get(name) for name in names]
    regions = [x.get("ignore_regions") for x in metadata]  # None: another module registered it
    found = {category for x in regions if x is not None for category in x.categories}
    classes = dict.fromkeys(name for x in metadata for name in x.get("thing_classes") or ())
    refuse_unknown_categories(ignored, found, classes)


def refuse_unknown_categories(
    ignored: Sequence[str], found: Collection[str], classes: Collection[str]
) -> None:
    """
    Raise an error if an ignored category was not found.

    Args:
        found: ignored categories that some file has.
        classes: all other categories of the files, for the message.

    Raises:
        ValueError: the message names the nearest category.
    """
    for name in ignored:
        if name not in found:
            hint = did_you_mean(name, classes) or f"; categories: {', '.join(classes)}"
            raise ValueError(
                f"no given dataset has the ignored category {shown(name)}{hint if classes else ''}"
            )


def use_datasets(
    cfg: CfgNode, names: Sequence[str], *, opts: Sequence[Any], training: bool
) -> None:
    """
    Use a pair of datasets, and refuse a dataset that was registered in vain.

    Two datasets `NAME_train` and `NAME_val` set `DATASETS.TRAIN` and `DATASETS.TEST`, unless the
    config uses one of them or ``opts`` has one of these keys.

    Args:
        names: the registered datasets.
        opts: `KEY`, `VALUE`, ... of the user, which the config already has.
        training: True if the run trains; an evaluation does not require a training set.

    Raises:
        ValueError: the config uses none of the datasets for training, or for the evaluation.
    """
    given = [key for key in KEYS if key in opts[::2]]
    if len(unused_datasets(cfg, names)) == 2 == len(names) and not given and _are_a_pair(names):
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ((name,) for name in sorted(names))
    key = KEYS[0] if training else KEYS[1]
    now = cfg.DATASETS.TRAIN if training else cfg.DATASETS.TEST
    in_vain = unused_datasets(cfg, names)
    if in_vain and key not in given and not set(names) & set(now):
        needed = [name for name in in_vain if ("train" in name) == training] or in_vain
        raise ValueError(
            f"{', '.join(in_vain)} is registered but not used: {key} is {tuple(now)}; set "
            f'{key} "{tuple(needed)}"'
        )


def unused_datasets(cfg: CfgNode, names: Sequence[str]) -> list[str]:
    """Return the datasets that the config neither trains nor evaluates on."""
    used = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    return [name for name in names if name not in used]


def _are_a_pair(names: Sequence[str]) -> bool:
    train, val = sorted(names)
    return train.endswith("_train") and val == f"{train.removesuffix('_train')}_val"
