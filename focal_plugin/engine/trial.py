"""
Construction of all that a run builds from its config, so that a sweep refuses an arm at its start.

The model has no memory (PyTorch's device "meta"), so a detector takes milliseconds.
"""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from torch import nn

from ..data.loading.image_cache import build_train_mapper
from ..modeling import knows_crowds
from ..modeling.prior import without_automatic_priors
from .amp import amp_precision
from .config_checks import building_explained, check_config
from .nonfinite import NonFinitePolicy
from .trainer import Trainer


def check_arm(cfg: CfgNode, *, here: bool = True) -> None:
    """
    Build what a run builds from its config, without weights, data and files, and drop it.

    Args:
        cfg: the config of a run; its device may be "auto".
        here: True if this machine must have the device.

    Raises:
        Exception: the error that ends the run at its start. Its type depends on the component.
    """
    cfg = without_automatic_priors(cfg)
    cfg.MODEL.FOCAL.INIT = "stock"
    amp_precision(cfg)
    if not here or cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = "cpu"
    check_config(cfg, training=True, processes=1)
    _check_weights(cfg.MODEL.WEIGHTS)
    NonFinitePolicy.from_config(cfg)
    with building_explained(cfg):
        model = build_without_memory(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    Trainer.build_lr_scheduler(cfg, optimizer)
    build_train_mapper(cfg, crowds=knows_crowds(cfg))
    DatasetMapper(cfg, is_train=False)


def build_without_memory(cfg: CfgNode) -> nn.Module:
    """Return the model of a config with random weights, on the device "meta" if possible."""
    cfg = without_automatic_priors(cfg)
    cfg.MODEL.DEVICE = "meta"
    try:
        with torch.device("meta"):
            return Trainer.build_model(cfg)
    except Exception:  # perhaps a component that computes with its weights
        cfg.MODEL.DEVICE = "cpu"
        return Trainer.build_model(cfg)


def _check_weights(name: str) -> None:
    if name and "://" not in name and not Path(name).expanduser().is_file():
        raise FileNotFoundError(
            f'MODEL.WEIGHTS: there is no file {name}; "" trains from random weights'
        )
