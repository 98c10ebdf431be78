"""
Components from outside of this package: modules that register a loss, a miner or a dataset.

They are imported by name, as `--import` of a command does, or found as entry points of an installed
distribution.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from .files import sha256_of
from .registry import RegistrationError, outside_components

logger = logging.getLogger(__name__)

GROUP = "focal_plugin.components"
"""Group of the entry points. Each one names a module."""

imported: list[str] = []
"""Modules that this process has imported for their components, as they were named."""


class ComponentImportError(RegistrationError):
    """Error for a module that cannot be imported; its message is one line."""


def import_components(names: Iterable[str]) -> None:
    """
    Import modules, so that their components are registered.

    Args:
        names: modules such as "my_package.losses", which may lie in the working directory; or
            names of .py files.

    Raises:
        ComponentImportError: a module does not exist, or its import fails.
    """
    for name in names:
        if name in imported:
            continue
        try:
            _import_file(Path(name)) if name.endswith(".py") else _import_module(name)
        except (Exception, SystemExit) as error:
            raise ComponentImportError(f"cannot import {name}: {_reason(error)}") from error
        imported.append(name)


def load_entry_points() -> None:
    """
    Import the modules that the entry points of :data:`GROUP` name.

    A module that cannot be imported is logged with its distribution, and the others are loaded.
    """
    for point in sorted(entry_points(group=GROUP)):
        owner = f"{point.dist.name} {point.dist.version}" if point.dist else "a distribution"
        try:
            importlib.import_module(point.module)
        except (Exception, SystemExit) as error:
            logger.warning(
                f"entry point {point.name} = {point.value} of {owner} cannot be imported: "
                f"{_reason(error)}"
            )
        else:
            imported.append(f"{point.value} of {owner}")


def component_digests(cfg: Mapping[str, Any]) -> dict[str, str]:
    """
    Return the SHA-256 of the source file of each component from outside that a config names.

    Returns:
        "<registry> <name> of <module>" -> digest; "" without a source file.
    """
    named = set(_texts(cfg))
    return {
        f"{registry} {name} of {component.__module__}": _digest(component.__module__)
        for registry, name, component in outside_components
        if name in named
    }


def _texts(cfg: Mapping[str, Any]) -> Iterator[str]:
    """Yield every value of a config that is text."""
    for value in cfg.values():
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif isinstance(value, str):
            yield value


def _import_module(name: str) -> None:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ImportError("it must be a module such as my_package.losses, or a .py file")
    top, folder = name.partition(".")[0], os.getcwd()
    if importlib.util.find_spec(top) is None and folder not in sys.path:
        sys.path.append(folder)  # last, so that it hides no installed package
        importlib.invalidate_caches()
    importlib.import_module(name)


def _import_file(file: Path) -> None:
    """Import a file as Python runs a script: its neighbors can be imported too."""
    file = file.expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    name = file.stem
    loaded = sys.modules.get(name)
    known = loaded.__spec__ if loaded else importlib.util.find_spec(name)
    other = Path(known.origin).resolve() if known and known.origin else None
    if loaded and other == file:
        return
    # a file in the working directory is no installed package, which must not be hidden
    if loaded or (known and other not in {file, Path.cwd() / file.name}):
        raise ImportError(f"the name {name} is that of {other or 'another module'}; rename it")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise


def _reason(error: BaseException) -> str:
    """Return an error as one line, with the place in the imported code."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, RegistrationError):  # it names the module
        return text
    not_theirs = (os.path.dirname(__file__), "<frozen", os.path.dirname(inspect.__file__))
    frames = traceback.extract_tb(error.__traceback__)
    places = [frame for frame in frames if not frame.filename.startswith(not_theirs)]
    return f"{text} ({places[-1].filename}, line {places[-1].lineno})" if places else text


def _digest(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    return sha256_of(Path(file)) if file else ""
