"""
Detectron2's keys that have no effect, because another key of the config replaces them.

Such a key is named if it differs from Detectron2's default.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.utils.logger import log_first_n

from ..registry import ConfigurableModule


def refuse_unused(cfg: CfgNode, keys: Iterable[str], by: str) -> None:
    """
    Raise an error if one of Detectron2's keys is set.

    Args:
        keys: full keys.
        by: the full key whose value ignores them.

    Raises:
        ValueError: a key is set; the message names it, its value and its default.
    """
    for key in sorted(keys):
        if _is_set(cfg, key):
            raise ValueError(_message(cfg, key, by))


def warn_of_replaced(cfg: CfgNode, replaced: Mapping[str, str]) -> None:
    """
    Log each of Detectron2's keys that is set, but replaced by another key.

    It is a warning, because an arm replaces a key of any base.

    Args:
        replaced: full key -> full key that replaces it, unless that is empty or "random".
    """
    for key, by in replaced.items():
        if _read(cfg, by) not in ("", "random", [], ()) and _is_set(cfg, key):
            # once, although a cascade builds several predictors
            log_first_n(logging.WARNING, _message(cfg, key, by), name=__name__, key="message")


def warn_of_missing_options(
    cfg: CfgNode, part: ConfigurableModule, options: Mapping[str, str]
) -> None:
    """
    Log each of Detectron2's keys that is set, but is no option of the chosen component.

    Args:
        part: the component.
        options: full key -> full key that chooses the component, see :func:`warn_of_replaced`.
    """
    own = {part.config_scope.key(key) for key in part.config_keys.values()}
    warn_of_replaced(cfg, {key: by for key, by in options.items() if key not in own})


def _is_set(cfg: CfgNode, key: str) -> bool:
    return bool(_read(cfg, key) != _read(_defaults(), key))


def _message(cfg: CfgNode, key: str, by: str) -> str:
    value, default, name = _read(cfg, key), _read(_defaults(), key), _read(cfg, by)
    return f"{key} = {value!r} has no effect with {by} = {name!r}; its default is {default!r}"


@functools.cache
def _defaults() -> CfgNode:
    return get_cfg()


def _read(cfg: CfgNode, key: str) -> Any:
    return functools.reduce(lambda node, name: node[name], key.split("."), cfg)
