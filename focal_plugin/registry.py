"""
Parts that a config names: registries, and modules that state their own config keys.

All that `losses` and `mining` know of Detectron2 comes through here: `Registry` and `configurable`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from detectron2.config import configurable
from detectron2.utils.registry import Registry
from torch import nn
from yacs.config import CfgNode

from .checks import IllegalOptionError

__all__ = ["ConfigurableModule", "Registry", "build_named", "configurable"]


class ConfigurableModule(nn.Module):
    """
    A module whose constructor arguments come from config keys that it names itself.

    A subclass with options decorates its `__init__`, keyword arguments only, with `@configurable`.
    An argument that is not in :attr:`config_keys` keeps its default when built from a config.
    """

    config_keys: ClassVar[dict[str, str]] = {}
    """Constructor argument -> full config key."""

    @configurable
    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {argument: _read(cfg, key) for argument, key in cls.config_keys.items()}

    def extra_repr(self) -> str:
        return ", ".join(f"{option}={getattr(self, option)}" for option in self.config_keys)


def build_named(
    classes: Iterable[tuple[str, type]], name_key: str, cfg: CfgNode, *args: Any
) -> nn.Module:
    """
    Build the part whose name stands under ``name_key``.

    Args:
        classes: (name, class) pairs, such as a registry. A class that has options of its own names
            their keys in `config_keys`, as :class:`ConfigurableModule` does.
        name_key: full config key.
        args: what its constructor takes beside the config.

    Raises:
        KeyError: no class has that name; the message lists those there are.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    by_name = dict(classes)
    name = _read(cfg, name_key)
    if name not in by_name:
        raise KeyError(f"{name_key} = {name!r} is not one of {', '.join(sorted(by_name))}")
    try:
        return by_name[name](cfg, *args)
    except IllegalOptionError as error:
        key = by_name[name].config_keys[error.option]
        raise ValueError(f"{key} {error.requirement} (with {name_key} = {name!r})") from error


def _read(cfg: CfgNode, full_key: str) -> Any:
    value = cfg
    for part in full_key.split("."):
        value = value[part]
    return value
