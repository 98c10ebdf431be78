"""
Registries of the components that a config names, and modules that declare their own config keys.

`losses` and `mining` depend on Detectron2 through this module alone: `Registry` and `configurable`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from detectron2.utils.registry import Registry as Detectron2Registry
from torch import nn
from yacs.config import CfgNode

from .checks import IllegalOptionError
from .names import did_you_mean

_Part = TypeVar("_Part", bound=nn.Module)

if TYPE_CHECKING:
    _Init = TypeVar("_Init", bound=Callable[..., None])

    def configurable(init: _Init) -> _Init:
        """Keep the signature, which Detectron2's unannotated decorator would hide."""
        return init
else:
    from detectron2.config import configurable


class RegistrationError(ValueError):
    """Error for a component that cannot be registered."""


class OutsideComponent(NamedTuple):
    """Component of a module outside of this package."""

    registry: str
    name: str
    component: type[nn.Module]


outside_components: list[OutsideComponent] = []
"""All components from outside of this package, in the order of their registration."""


class Registry(Detectron2Registry):
    """Detectron2's registry, which also checks each component and explains a refusal."""

    def __init__(self, name: str, prepare: Callable[[Any], type[nn.Module]]) -> None:
        """
        Make an empty registry.

        Args:
            prepare: function that returns the class to build for a registered object. It raises
                :class:`RegistrationError` if there is none.
        """
        super().__init__(name)
        self._prepare = prepare

    def _do_register(self, name: str, obj: Any) -> None:
        """
        Add an object under a name; :meth:`register` calls this.

        Raises:
            RegistrationError: the name is taken, or the object is no component of this kind.
        """
        module = obj.__module__
        if name in self._obj_map:
            other = self._obj_map[name].__module__
            built_in = "" if is_outside(other) else ", which is built in"
            raise RegistrationError(
                f"{self._name} {name!r} of {module} has the name of that of {other}{built_in}; "
                "give it another name"
            )
        component = self._prepare(obj)
        self._obj_map[name] = component
        if is_outside(module):
            outside_components.append(OutsideComponent(self._name, name, component))


def require_subclass(component: Any, base: type[_Part]) -> type[_Part]:
    """
    Return a class that a registry accepts.

    Raises:
        RegistrationError: it is no subclass of ``base``, or cannot be built from a config.
    """
    if not (isinstance(component, type) and issubclass(component, base)):
        raise RegistrationError(
            f"{component.__name__} of {component.__module__} must be a subclass of {base.__name__}"
        )
    init = vars(component).get("__init__")
    if init is not None and not hasattr(init, "__wrapped__"):
        raise RegistrationError(
            f"{component.__name__} of {component.__module__}: decorate its __init__ with "
            "focal_plugin.registry.configurable, which reads config_keys"
        )
    return component


def default_of(component: OutsideComponent, argument: str) -> Any:
    """
    Return the default of a constructor's argument.

    Raises:
        RegistrationError: there is none.
    """
    for base in component.component.__mro__:
        if init := vars(base).get("__init__"):
            parameter = inspect.signature(init).parameters.get(argument)
            if parameter is not None and parameter.default is not parameter.empty:
                return parameter.default
    raise RegistrationError(f"config_keys of {component.name}: {argument!r} has no default")


def is_outside(module: str) -> bool:
    """Return True for the name of a module that is no part of this package or of Detectron2."""
    return module.partition(".")[0] not in {"focal_plugin", "detectron2"}


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


def build_part(part: type[_Part], cfg: CfgNode, config_scope: ConfigScope = DENSE) -> _Part:
    """
    Build a component that has no name, a subclass of :class:`ConfigurableModule`.

    Args:
        config_scope: the location of its options, if they are moved.

    Raises:
        ValueError: an option is outside its legal range; the message names its full key.
    """
    try:
        return part(cfg, config_scope=config_scope)
    except IllegalOptionError as error:
        keys = getattr(part, "config_keys", {})
        if error.option not in keys:
            raise
        raise ValueError(f"{config_scope.key(keys[error.option])} {error.requirement}") from error


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
        known = ", ".join(sorted(by_name))
        raise KeyError(
            f"{name_key} = {name!r} is not one of {known}{did_you_mean(name, by_name)}; "
            "one of your own needs --import, or imports in a spec"
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
