"""Check that a detector can train on partly labeled images, before it does."""

from __future__ import annotations

import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from ..data.checks.facts import read_content
from ..losses import build_cls_loss
from ..modeling import FocalRetinaNet
from ..modeling.unlabeled_classes import check_leaves_out

logger = logging.getLogger(__name__)

KEY = "MODEL.FOCAL.ANCHOR_LABELS.UNLABELED"


def check_partial_labels(cfg: CfgNode, num_images: int) -> None:
    """
    Log that training images are partly labeled.

    Args:
        num_images: number of training images that state their labeled classes.

    Raises:
        ValueError: the detector, or its loss, cannot leave out a class of an image.
    """
    if not num_images:
        return
    stated = f"{num_images} training images state their labeled categories"
    try:
        if not issubclass(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), FocalRetinaNet):
            raise ValueError("only FocalRetinaNet can leave out the others")
        check_leaves_out(build_cls_loss(cfg), cfg.MODEL.RETINANET.NUM_CLASSES)
    except ValueError as error:
        raise ValueError(
            f"{stated}, but {error}; or set {KEY} background, which trains every object without "
            "annotation as background"
        ) from error
    logger.info(f"{stated}: the other categories are not background there")


def count_partly_labeled(cfg: CfgNode) -> int:
    """Count the partly labeled images in the files of `--dataset` that a config trains on."""
    if cfg.MODEL.FOCAL.ANCHOR_LABELS.UNLABELED == "background":
        return 0
    metadata = [MetadataCatalog.get(name) for name in cfg.DATASETS.TRAIN]
    files = [Path(x.json_file) for x in metadata if x.get("given_json_file")]
    return sum(read_content(file).findings.counts["image-partly-labeled"] for file in files)
