"""
Parts that a config names: registries, and modules that state their own config keys.

All that `losses` and `mining` know of Detectron2 comes through here: `Registry` and `configurable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from detectron2.utils.registry import Registry
from torch import nn
from yacs.config import CfgNode

from .checks import IllegalOptionError

__all__ = ["DENSE", "ConfigurableModule", "Place", "Registry", "build_named", "configurable"]

_Part = TypeVar("_Part", bound=nn.Module)

if TYPE_CHECKING:
    _Init = TypeVar("_Init", bound=Callable[..., None])

    def configurable(init: _Init) -> _Init:
        """Keep the signature, which Detectron2's decorator, without annotations, would hide."""
        return init
else:
    from detectron2.config import configurable


@dataclass(frozen=True)
class Place:
    """
    Where in a config the options of a part stand, if not where its `config_keys` say: the same loss
    may serve a dense detector, an RPN and a box head, each with options of its own.

    Attributes:
        moved: full key, or node for all that is in it, -> where it is instead.
        fixed: full key -> the value here, which no key changes.
    """

    moved: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def key(self, key: str) -> str:
        """Where ``key`` is here: that of the longest node, or key, that has moved."""
        node, rest = key, ""
        while node:
            if node in self.moved:
                return self.moved[node] + rest
            node, dot, name = node.rpartition(".")
            rest = dot + name + rest
        return key

    def read(self, cfg: CfgNode, key: str) -> Any:
        """The value here of ``key``."""
        if key in self.fixed:
            return self.fixed[key]
        value = cfg
        for part in self.key(key).split("."):
            value = value[part]
        return value


DENSE = Place()
"""Of a dense detector: what `config_keys` say as it stands."""


class ConfigurableModule(nn.Module):
    """
    A module whose constructor arguments come from config keys that it names itself.

    A subclass with options decorates its `__init__`, keyword arguments only, with `@configurable`.
    An argument that is not in :attr:`config_keys`, or whose key is None, keeps its default when
    built from a config.
    """

    config_keys: ClassVar[dict[str, str]] = {}
    """Constructor argument -> full config key."""
    place = DENSE
    """Where in a config this module's options stood, if it was built from one."""

    @configurable
    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def from_config(cls, cfg: CfgNode, place: Place = DENSE) -> dict[str, Any]:
        options = {argument: place.read(cfg, key) for argument, key in cls.config_keys.items()}
        return {argument: value for argument, value in options.items() if value is not None}

    def key_of(self, option: str) -> str:
        """The full key of a constructor argument."""
        return self.place.key(self.config_keys[option])

    def extra_repr(self) -> str:
        return ", ".join(f"{option}={getattr(self, option)}" for option in self.config_keys)


def build_named(
    classes: Iterable[tuple[str, type[_Part]]],
    name_key: str,
    cfg: CfgNode,
    *args: Any,
    place: Place | None = None,
) -> _Part:
    """
    Build the part whose name stands under ``name_key``.

    Args:
        classes: (name, class) pairs, such as a registry. A class that has options of its own names
            their keys in `config_keys`, as :class:`ConfigurableModule` does.
        name_key: full config key.
        args: what its constructor takes beside the config.
        place: where ``name_key`` and the options are, if elsewhere; for classes that are a
            :class:`ConfigurableModule`.

    Raises:
        KeyError: no class has that name; the message lists those there are.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    by_name = dict(classes)
    there = place or DENSE
    name, name_key = there.read(cfg, name_key), there.key(name_key)
    if name not in by_name:
        raise KeyError(f"{name_key} = {name!r} is not one of {', '.join(sorted(by_name))}")
    try:
        part = by_name[name](cfg, *args, **({"place": place} if place else {}))
    except IllegalOptionError as error:
        keys = getattr(by_name[name], "config_keys", {})
        if error.option not in keys:
            raise
        key = there.key(keys[error.option])
        raise ValueError(f"{key} {error.requirement} (with {name_key} = {name!r})") from error
    if place and isinstance(part, ConfigurableModule):
        part.place = place
    return part
