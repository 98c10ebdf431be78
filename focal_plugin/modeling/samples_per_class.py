"""Objects per class in the training set, for the losses whose weights depend on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode

from ..losses import CLS_LOSS_REGISTRY
from ..registry import DENSE
from . import config_scopes

KEY = "MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS"


def set_samples_per_class(cfg: CfgNode, count: Callable[[int], Sequence[int]]) -> None:
    """
    Write `SAMPLES_PER_CLASS` of each loss that requires it, unless the config sets it.

    Proposals have one class.

    Args:
        cfg: changed in place.
        count: number of classes K -> objects of each class in the training set, K numbers. It is
            called only if a loss requires the numbers.
    """
    roi_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for config_scope, num_classes in [
        (DENSE, cfg.MODEL.RETINANET.NUM_CLASSES),
        (config_scopes.RPN, roi_classes),
        (config_scopes.ROI_HEADS, roi_classes),
    ]:
        name = config_scope.read(cfg, "MODEL.FOCAL.CLS_LOSS.NAME")
        loss = dict(CLS_LOSS_REGISTRY).get(name)  # None: building the model raises the error
        wanted = loss is not None and KEY in loss.config_keys.values()
        if wanted and not config_scope.read(cfg, KEY):
            counts = list(count(num_classes))
            here = [sum(counts)] if config_scope is config_scopes.RPN else counts
            pair: list[Any] = [config_scope.key(KEY), here]
            cfg.merge_from_list(pair)
