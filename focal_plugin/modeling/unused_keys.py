"""
Refusal of Detectron2's keys that another key of a config replaces.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from detectron2.config import CfgNode, get_cfg


def refuse_unused(cfg: CfgNode, keys: Iterable[str], where: str) -> None:
    """
    Raise an error if one of Detectron2's keys is set, but nothing would read it.

    Args:
        keys: full keys; a key is set if it differs from Detectron2's default.
        where: the reason, such as "with MODEL.BACKBONE.NAME = ...".

    Raises:
        ValueError: a key is set; the message names it, its value and its default.
    """
    for key in sorted(keys):
        value, default = _read(cfg, key), _read(_defaults(), key)
        if value != default:
            raise ValueError(
                f"{key} = {value!r} has no effect {where}: leave it at its default, {default!r}"
            )


@functools.cache
def _defaults() -> CfgNode:
    return get_cfg()


def _read(cfg: CfgNode, key: str) -> Any:
    return functools.reduce(lambda node, name: node[name], key.split("."), cfg)
