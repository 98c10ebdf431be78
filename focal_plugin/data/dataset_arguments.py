"""Use of the registered datasets by a config, for `--dataset` and the `datasets` of a spec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from .registration import parse_dataset_argument, register_coco_dataset

KEYS = ("DATASETS.TRAIN", "DATASETS.TEST")


def register_datasets(arguments: Sequence[str]) -> list[str]:
    """
    Register the datasets of `--dataset`, and return their names.

    The name of a registered dataset stands for itself.

    Raises:
        FileNotFoundError: a file or a folder does not exist.
        ValueError: an argument has another form, or its name is taken.
    """
    known = DatasetCatalog.list()
    datasets = [None if text in known else parse_dataset_argument(text) for text in arguments]
    for dataset in datasets:
        if dataset is not None:
            register_coco_dataset(dataset)
    return [
        text if dataset is None else dataset.name
        for text, dataset in zip(arguments, datasets, strict=True)
    ]


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
