"""Initialization of the fork server of `tests/conftest.py`, done once for all its processes."""

from __future__ import annotations

import contextlib
import gc
import importlib

import PIL.Image

from focal_plugin import get_cfg
from focal_plugin.config_node import FocalCfgNode

from .cached_configs import load_once
from .conftest import ROOT

LATE = (
    "absl.logging",
    "focal_plugin.ops.dense_loss_cpp",
    "focal_plugin.ops.dense_loss_eager",
    "focal_plugin.ops.dense_loss_triton",
    "hotcoco",
    "torch._subclasses.schema_check_mode",
    "torch.distributed.launcher.api",
    "torch.utils.cpp_extension",
    "torch.utils.serialization.config",
    "torch.utils.tensorboard",
)
"""Modules that a training imports while it runs, if they are installed."""

for name in LATE:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
PIL.Image.preinit()
FocalCfgNode.load_yaml_with_base = classmethod(load_once)
for file in (ROOT / "configs/quick_schedules").glob("*_instant_test.yaml"):
    get_cfg().merge_from_file(str(file))
gc.enable()  # conftest.py disables it
gc.freeze()  # a collection in a forked process would copy the whole memory of the server
