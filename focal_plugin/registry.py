"""
Registries of the components that a config names, and modules that declare their own config keys.

`losses` and `mining` depend on Detectron2 through this module alone: `Registry` and `configurable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from detectron2.utils.registry import Registry
from torch import nn
from yacs.config import CfgNode

from .checks import IllegalOptionError
from .names import did_you_mean

__all__ = ["DENSE", "ConfigScope", "ConfigurableModule", "Registry", "build_named", "configurable"]

_Part = TypeVar("_Part", bound=nn.Module)

if TYPE_CHECKING:
    _Init = TypeVar("_Init", bound=Callable[..., None])

    def configurable(init: _Init) -> _Init:
        """Keep the signature, which Detectron2's unannotated decorator would hide."""
        return init
else:
    from detectron2.config import configurable


@dataclass(frozen=True)
class ConfigScope:
    """
    Redirection of a component's config keys.

    With it, one loss serves a dense detector, an RPN and a box head, each with its own options.

    Attributes:
        moved: full key, or node with all its keys, -> its location here.
        fixed: full key -> its value here, which no key changes.
    """

    moved: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def key(self, key: str) -> str:
        """Return the location of ``key`` here. The longest moved key or node applies."""
        node, rest = key, ""
        while node:
            if node in self.moved:
                return self.moved[node] + rest
            node, dot, name = node.rpartition(".")
            rest = dot + name + rest
        return key

    def read(self, cfg: CfgNode, key: str) -> Any:
        """Return the value of ``key`` here."""
        if key in self.fixed:
            return self.fixed[key]
        value = cfg
        for part in self.key(key).split("."):
            value = value[part]
        return value


DENSE = ConfigScope()
"""Scope of a dense detector: the keys in `config_keys` apply unchanged."""


class ConfigurableModule(nn.Module):
    """
    Module whose constructor arguments come from config keys that it declares itself.

    A subclass with options decorates its `__init__` with `@configurable` and takes keyword
    arguments only. An argument keeps its default in a module built from a config if it is not in
    :attr:`config_keys`, or if the value of its key is None.
    """

    config_keys: ClassVar[dict[str, str]] = {}
    """Full config key of each constructor argument."""
    config_scope = DENSE
    """Location of this module's options in the config that built it."""

    @configurable
    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def from_config(cls, cfg: CfgNode, config_scope: ConfigScope = DENSE) -> dict[str, Any]:
        options = {
            argument: config_scope.read(cfg, key) for argument, key in cls.config_keys.items()
        }
        return {argument: value for argument, value in options.items() if value is not None}

    def key_of(self, option: str) -> str:
        """Return the full key of a constructor argument."""
        return self.config_scope.key(self.config_keys[option])

    def extra_repr(self) -> str:
        return ", ".join(f"{option}={getattr(self, option)}" for option in self.config_keys)


def build_named(
    classes: Iterable[tuple[str, type[_Part]]],
    name_key: str,
    cfg: CfgNode,
    *args: Any,
    config_scope: ConfigScope | None = None,
) -> _Part:
    """
    Build the component whose name is the value of ``name_key``.

    Args:
        classes: (name, class) pairs, such as a registry. A class with options of its own declares
            their keys in `config_keys`, like a :class:`ConfigurableModule`.
        name_key: full config key.
        args: constructor arguments after the config.
        config_scope: the location of ``name_key`` and of the options, if they are moved. The
            classes must then be subclasses of :class:`ConfigurableModule`.

    Raises:
        KeyError: no class has that name; the message lists the available names.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    by_name = dict(classes)
    there = config_scope or DENSE
    name, name_key = there.read(cfg, name_key), there.key(name_key)
    if name not in by_name:
        raise KeyError(
            f"{name_key} = {name!r} is not one of {', '.join(sorted(by_name))}"
            f"{did_you_mean(name, by_name)}"
        )
    try:
        part = by_name[name](cfg, *args, **({"config_scope": config_scope} if config_scope else {}))
    except IllegalOptionError as error:
        keys = getattr(by_name[name], "config_keys", {})
        if error.option not in keys:
            raise
        key = there.key(keys[error.option])
        raise ValueError(f"{key} {error.requirement} (with {name_key} = {name!r})") from error
    if config_scope and isinstance(part, ConfigurableModule):
        part.config_scope = config_scope
    return part
