"""Config of a command that reads datasets: from flags as those of `train_net.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .config import get_cfg
from .config_file import find_config_file
from .config_node import FocalCfgNode
from .data import register_datasets, use_datasets


def config_of_flags(
    config_file: str,
    *,
    datasets: Sequence[str],
    opts: Sequence[str],
    ignored: Sequence[str] = (),
) -> FocalCfgNode:
    """
    Return the config of a file, of `--dataset` and of `KEY VALUE` pairs.

    Args:
        config_file: path or name.
        datasets: `NAME=JSON:IMAGES`, which are registered, or names of registered datasets.
        opts: `KEY`, `VALUE`, ...
        ignored: names of categories whose annotations are ignore regions.

    Raises:
        KeyError: a key is unknown.
        ValueError: an argument has another form, or a dataset is registered in vain.
        FileNotFoundError: there is no such file.
    """
    names = register_datasets(datasets, ignored)
    cfg = get_cfg()
    cfg.merge_from_file(str(find_config_file(config_file)))
    cfg.merge_from_list(list(opts))
    use_datasets(cfg, names, opts=opts, training=True)
    return cfg


def parse_files(text: str) -> tuple[Path, Path]:
    """
    Return the annotation file and the image folder of `JSON:IMAGES`.

    Raises:
        ValueError: the text does not have this form.
    """
    json_file, _, image_root = text.rpartition(":")
    if not (json_file and image_root):
        raise ValueError(f"a dataset is given as JSON:IMAGES, got {text!r}")
    return Path(json_file).expanduser(), Path(image_root).expanduser()
