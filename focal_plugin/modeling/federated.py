"""
Detectron2's federated loss, with the frequencies of the classes as a key.

Detectron2 reads the images of each class in the metadata of a dataset, which only LVIS has.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling.roi_heads import FastRCNNOutputLayers


def is_federated(cfg: CfgNode) -> bool:
    """Return True if a box head has the federated loss, which release 0.6 lacks."""
    return bool(getattr(cfg.MODEL.ROI_BOX_HEAD, "USE_FED_LOSS", False))


def federated_options(cfg: CfgNode) -> dict[str, Any]:
    """
    Return the options of `FastRCNNOutputLayers` that replace those of its `from_config`.

    The weights of the classes are a power of `MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS`, or
    what Detectron2 makes of the metadata. Without either they are 0, so that the layers can be
    built but not trained.
    """
    if not is_federated(cfg):
        return {}
    images = cfg.MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS
    if not images:
        metadata = [MetadataCatalog.get(name) for name in cfg.DATASETS.TRAIN]
        if metadata and all(hasattr(x, "class_image_count") for x in metadata):
            return {}
        images = [0] * cfg.MODEL.ROI_HEADS.NUM_CLASSES
    power = cfg.MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER
    return {"get_fed_loss_cls_weights": lambda: torch.tensor(images).float() ** power}


def without_federated_loss(cfg: CfgNode) -> CfgNode:
    """Return a config with which Detectron2's own layers require no metadata."""
    if not is_federated(cfg):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = False
    return cfg


def require_federated_weights(layers: FastRCNNOutputLayers) -> None:
    """
    Raise an error if the federated loss of output layers has no frequencies of the classes.

    Raises:
        ValueError: it has none; the message names the key.
    """
    weights = getattr(layers, "fed_loss_cls_weights", None)  # absent without the loss
    if weights is not None and not weights.any():
        raise ValueError(
            "MODEL.ROI_BOX_HEAD.USE_FED_LOSS requires the number of images with each class in "
            "MODEL.FOCAL.ROI_HEADS.CLS_LOSS.SAMPLES_PER_CLASS"
        )
