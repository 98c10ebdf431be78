"""Config key of the loss weight that the trials of an arm change."""

from __future__ import annotations

from detectron2.config import CfgNode

from ...engine.trial import build_without_memory
from ...engine.unread_keys import RecordingCfgNode, leaves
from ...names import did_you_mean
from .setting import Grid, Origin

WEIGHT_KEYS = ("MODEL.FOCAL.ROI_HEADS.CLS_LOSS.WEIGHT", "MODEL.FOCAL.CLS_LOSS.WEIGHT")
"""Weights of the classification loss of detectors with two stages and with one."""


def origin_of(cfg: CfgNode, grid: Grid) -> Origin:
    """
    Return the values in the config of an arm that the settings of a grid multiply.

    The key of the weight is not guessed: the detector is built, and the keys that it reads are
    recorded.

    Raises:
        KeyError: `key` of `loss_weights` does not exist.
        ValueError: the detector does not read the weight, or it is no number > 0.
    """
    if not grid.weight_factors:
        return Origin(cfg.SOLVER.BASE_LR)
    values = dict(leaves(cfg))
    keys = (grid.weight_key,) if grid.weight_key else WEIGHT_KEYS
    for key in keys:
        if key not in values:
            raise KeyError(f"loss_weights: there is no config key {key}{did_you_mean(key, values)}")
    recording = RecordingCfgNode.of(cfg)
    build_without_memory(recording)
    read = [key for key in keys if key in recording.reads]
    if not read:
        hint = "" if grid.weight_key else "; name the weight of another loss with key"
        raise ValueError(f"loss_weights: the detector does not read {' or '.join(keys)}{hint}")
    weight = values[read[0]]
    if not (isinstance(weight, float) and weight > 0):
        raise ValueError(f"loss_weights: {read[0]} must be a number > 0, got {weight!r}")
    return Origin(cfg.SOLVER.BASE_LR, read[0], weight)
