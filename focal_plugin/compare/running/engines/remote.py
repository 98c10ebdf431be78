"""What engines share whose runs are trained by processes that this one did not start."""

from __future__ import annotations

import importlib
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from ....files import write_text
from ..trainer_process import Urgency

LOOK_S = 1.0

SETTINGS = ("DETECTRON2_DATASETS", "FVCORE_CACHE", "TORCH_HOME")
"""Variables that mean the same on every machine of a cluster."""

ALLOWED = {
    *SETTINGS,
    *("CUDA_HOME", "CUDA_VISIBLE_DEVICES", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "LOGNAME"),
    *("MKL_NUM_THREADS", "OMP_NUM_THREADS", "PATH", "PYTHONPATH", "SHELL", "TMPDIR", "TZ", "USER"),
    *("CONDA_PREFIX", "VIRTUAL_ENV", "XDG_CACHE_HOME"),
}
ALLOWED_PREFIXES = ("NCCL_", "NVIDIA_", "SLURM_", "CUBLAS_")


class StopFile:
    """Tells tasks on other machines to stop, by a file in the folder that they share with us."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f".stop.{uuid.uuid4().hex}"
        self._seen = Urgency.GO_ON
        self._looked = 0.0

    def ask(self, urgency: Urgency) -> None:
        write_text(self._file, str(int(urgency)))

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)

    def urgency(self) -> Urgency:
        """What is asked for; looks into the folder now and then only."""
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            try:
                self._seen = Urgency(int(self._file.read_text(encoding="utf-8")))
            except OSError:
                self._seen = Urgency.GO_ON
        return self._seen


def allowed_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that a job may see: not what else is in a user's shell, such as tokens."""
    return {
        name: value
        for name, value in environment.items()
        if name in ALLOWED or name.startswith(ALLOWED_PREFIXES)
    }


def settings() -> dict[str, str]:
    """Those of this process that hold on other machines, too."""
    return {name: os.environ[name] for name in SETTINGS if name in os.environ}


def import_extra(module: str, extra: str) -> ModuleType:
    """
    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this engine needs {module}, which cannot be imported ({error}); "
            f"pip install 'focal_plugin[{extra}]'"
        ) from error
