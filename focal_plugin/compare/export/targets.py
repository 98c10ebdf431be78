"""Targets of an export: one module for each, which needs its package only when it is used."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Protocol

from .content import Exported

TARGETS = ("csv", "wandb", "mlflow", "trackio")
"""Values of `--to`; the module of each is `to_NAME`."""


class MissingPackageError(ImportError):
    """Error for a target whose package is not installed."""


class Target(Protocol):
    """Function `write` of the module of a target."""

    def __call__(self, exported: Exported, out: Path) -> str:
        """
        Write the runs and the verdicts.

        Runs that the target has already are left as they are, where it can tell.

        Args:
            out: folder for all that the target writes to this machine; it need not exist.

        Returns:
            A sentence on where the runs are, and how to see them.

        Raises:
            MissingPackageError: the package of the target is not installed.
            ValueError: the target refuses, for example because there is no login.
        """


def open_target(name: str) -> Target:
    """Return a target by its name, one of :data:`TARGETS`."""
    module = importlib.import_module(f"{__package__}.to_{name}")
    write: Target = module.write
    return write


def project_name(name: str) -> str:
    """Return the name of a comparison with the characters that every target accepts."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_") or "comparison"


def require(package: str) -> ModuleType:
    """
    Import the package of a target.

    Raises:
        MissingPackageError: it is not installed; the message has the command.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingPackageError(
            f"{package} is not installed: pip install 'focal_plugin[{package}]', or pip install "
            f"{package}"
        ) from None
