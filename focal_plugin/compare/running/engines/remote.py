"""Helpers of the engines that train on other machines."""

from __future__ import annotations

import importlib
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from focal_plugin_allocator import USERS_CHOICE

from ....files import write_text
from ..trainer_process import Urgency

LOOK_S = 1.0

SETTINGS = ("DETECTRON2_DATASETS", "FVCORE_CACHE", "TORCH_HOME")
"""Variables that are valid on every machine of a cluster."""

ALLOWED = {
    *SETTINGS,
    *("CUDA_HOME", "CUDA_VISIBLE_DEVICES", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "LOGNAME"),
    *("MKL_NUM_THREADS", "OMP_NUM_THREADS", "PATH", "PYTHONPATH", "SHELL", "TMPDIR", "TZ", "USER"),
    *("CONDA_PREFIX", "VIRTUAL_ENV", "XDG_CACHE_HOME"),
    *USERS_CHOICE,
}
ALLOWED_PREFIXES = ("MALLOC_", "NCCL_", "NVIDIA_", "SLURM_", "CUBLAS_")


class StopFile:
    """File in the shared folder that asks tasks on other machines to stop."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f".stop.{uuid.uuid4().hex}"
        self._seen = Urgency.GO_ON
        self._looked = 0.0

    def ask(self, urgency: Urgency) -> None:
        """Write the request."""
        write_text(self._file, str(int(urgency)))

    def remove(self) -> None:
        """Remove the file."""
        self._file.unlink(missing_ok=True)

    def urgency(self) -> Urgency:
        """Return the current request; the folder is read at most once per second."""
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            try:
                self._seen = Urgency(int(self._file.read_text(encoding="utf-8")))
            except OSError:
                self._seen = Urgency.GO_ON
        return self._seen


def allowed_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a job may see; others, such as tokens, stay private."""
    return {
        name: value
        for name, value in environment.items()
        if name in ALLOWED or name.startswith(ALLOWED_PREFIXES)
    }


def settings() -> dict[str, str]:
    """Return the variables of this process that are valid on other machines."""
    return {name: os.environ[name] for name in SETTINGS if name in os.environ}


def import_extra(module: str, extra: str) -> ModuleType:
    """
    Import the package of an optional extra.

    Raises:
        ImportError: the package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this engine requires {module}, which cannot be imported ({error}); "
            f"pip install 'focal_plugin[{extra}]'"
        ) from error
