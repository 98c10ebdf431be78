"""Initialization of the fork server of `tests/conftest.py`, done once for all its processes."""

from __future__ import annotations

import contextlib
import gc
import importlib
from typing import Any

import PIL.Image
from detectron2.engine import defaults

LATE = (
    "absl.logging",
    "faster_coco_eval",
    "focal_plugin.ops.dense_loss_cpp",
    "focal_plugin.ops.dense_loss_eager",
    "focal_plugin.ops.dense_loss_triton",
    "pygments.formatters.terminal256",
    "pygments.lexers.data",
    "pygments.lexers.python",
    "pygments.styles.monokai",
    "pygments.unistring",
    "torch._subclasses.schema_check_mode",
    "torch.distributed.launcher.api",
    "torch.utils.cpp_extension",
    "torch.utils.serialization.config",
    "torch.utils.tensorboard",
)
"""Modules that a training imports while it runs, if they are installed."""


def _look_up(cfg: Any, *keys: str, default: Any = None) -> Any:
    """
    Look up a key as `detectron2.engine.defaults._try_get_key` does, but faster.

    That function converts the whole config to YAML and back, three times in each run.
    """
    for key in keys:
        value = cfg
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return value
    return default


for name in LATE:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
PIL.Image.preinit()
gc.freeze()  # a collection in a forked process would copy the whole memory of the server
defaults._try_get_key = _look_up
