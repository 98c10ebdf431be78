"""Every config key that this package adds to Detectron2's, and a `get_cfg` that has them."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg


def add_focal_config(cfg: CfgNode) -> None:
    """
    Add the node `MODEL.FOCAL`; a config that has it already is left as it is.

    At these defaults every component is its stock counterpart. Options for which Detectron2 has a
    key are read from there: `MODEL.RETINANET.FOCAL_LOSS_ALPHA` (-1: off), `FOCAL_LOSS_GAMMA`,
    `PRIOR_PROB`, `SMOOTH_L1_LOSS_BETA`.
    """
    if "FOCAL" in cfg.MODEL:
        return
    new_node = type(cfg)  # yacs merges only nodes of the same class
    node = cfg.MODEL.FOCAL = new_node()

    # Classification loss: a name in CLS_LOSS_REGISTRY. alpha and gamma: see above.
    node.CLS_LOSS = new_node()
    node.CLS_LOSS.NAME = "SigmoidFocalLoss"
    # Shift of FL* (SigmoidFocalStarLoss); its slope is FOCAL_LOSS_GAMMA
    node.CLS_LOSS.BETA = 1.0

    # What the summed losses are divided by: "ema" (stock: running mean of the positive anchors in
    # a batch, per process), "batch", "per_image" or "fixed"
    node.NORMALIZER = "ema"
    # "ema": value before the first batch, and weight of the old value
    node.NORMALIZER_INIT = 100.0
    node.NORMALIZER_MOMENTUM = 0.9
    # "fixed": the divisor
    node.NORMALIZER_VALUE = 100.0

    # build_small_resnet_fpn_backbone: channels of its stages res2, res3, ...
    node.SMALL_RESNET = new_node()
    node.SMALL_RESNET.WIDTHS = [24, 32, 64, 96]


class FocalCfgNode(CfgNode):
    """Same interface as Detectron2's `CfgNode`, but an unknown key is told the nearest known."""

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> Any:
        with _NearestKey(self):
            return super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list: list[str]) -> Any:
        with _NearestKey(self):
            return super().merge_from_list(cfg_list)


def get_cfg() -> FocalCfgNode:
    """
    Returns:
        Detectron2's default config with our keys. `MODEL.DEVICE` is "cuda" where there is a GPU and
        "cpu" where there is none.
    """
    cfg = FocalCfgNode(get_detectron2_cfg())
    add_focal_config(cfg)
    cfg.MODEL.DEVICE = "auto"
    resolve_device(cfg)
    return cfg


def resolve_device(cfg: CfgNode) -> None:
    """Replace a `MODEL.DEVICE` of "auto" by "cuda" where there is a GPU, else by "cpu"."""
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class _NearestKey:
    """Turns yacs' "Non-existent (config) key: X" into a KeyError that suggests a key."""

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        message = str(error.args[0]) if error is not None and error.args else ""
        if not isinstance(error, (KeyError, AssertionError)) or "Non-existent" not in message:
            return
        unknown = message.rpartition(": ")[2]
        nearest = difflib.get_close_matches(unknown, list(_full_keys(self._cfg)), n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise KeyError(f"Non-existent config key: {unknown}{hint}") from None


def _full_keys(cfg: CfgNode, prefix: str = "") -> Any:
    for key, value in cfg.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _full_keys(value, f"{prefix}{key}.")
