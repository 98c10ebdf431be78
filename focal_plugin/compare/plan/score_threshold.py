"""
Score from which the evaluation of a run keeps detections.

AP is the area under a curve over all scores, so every cut-off can only lower it, and by how much
depends on the loss. Detectron2's default of .05 suits pictures with boxes. A comparison keeps all
detections from .001 on, so that the cut-off does not decide between losses.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from detectron2.config import CfgNode

from ...names import shown

SCORE_THRESHOLD_KEYS = (
    "MODEL.RETINANET.SCORE_THRESH_TEST",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
)
"""Config keys of the cut-off, for detectors with one and with two stages."""
STOCK_SCORE_THRESHOLD = 0.05
"""Detectron2's default for both keys."""
COMPARED_SCORE_THRESHOLD = 0.001
"""Default of a comparison."""
KEEP = "stock"
"""Value of the key `score_threshold` of a spec that leaves every config as it is."""


def read_score_threshold(
    content: dict[str, Any], opts: tuple[str, ...]
) -> tuple[float | None, tuple[str, ...]]:
    """
    Read the key `score_threshold` of a spec.

    Args:
        content: the spec.
        opts: its options for all arms.

    Returns:
        The cut-off for arms that set none of their own, None for Detectron2's. And ``opts``,
        with the cut-off for all arms if the spec names one.

    Raises:
        ValueError: the value is illegal, or ``opts`` sets the cut-off, too.
    """
    if "score_threshold" not in content:
        return COMPARED_SCORE_THRESHOLD, opts
    value = content["score_threshold"]
    if value == KEEP:
        return None, opts
    if type(value) not in {int, float} or not 0 <= value < 1:
        raise ValueError(f"score_threshold must be a number in [0, 1) or stock, got {shown(value)}")
    for key in SCORE_THRESHOLD_KEYS:
        if key in opts[::2]:
            raise ValueError(f"score_threshold cannot be combined with {key} in opts")
    return value, (*opts, *_options(SCORE_THRESHOLD_KEYS, value))


def score_threshold_options(
    cfg: CfgNode, given: Collection[str], threshold: float | None
) -> list[str]:
    """
    Return KEY, VALUE, ... that set the cut-off of an arm which has none of its own.

    Args:
        cfg: config of the arm.
        given: options of the arm, whose values are respected even if they equal the default.
        threshold: the cut-off; None returns no options.
    """
    if threshold is None:
        return []
    free = [
        key
        for key in SCORE_THRESHOLD_KEYS
        if key not in given and _value(cfg, key) == STOCK_SCORE_THRESHOLD
    ]
    return _options(free, threshold)


def score_threshold_of(cfg: CfgNode) -> float | None:
    """Return the cut-off of the detector of a config; None if the config does not say."""
    model = cfg.get("MODEL", {})
    one_stage = str(model.get("META_ARCHITECTURE")).endswith("RetinaNet")
    value = _value(cfg, SCORE_THRESHOLD_KEYS[0 if one_stage else 1])
    return float(value) if type(value) in {int, float} else None


def _value(cfg: CfgNode, key: str) -> Any:
    _, node, name = key.split(".")
    found = cfg.get("MODEL", {}).get(node, {})
    return found.get(name) if isinstance(found, dict) else None


def _options(keys: Collection[str], value: float) -> list[str]:
    return [part for key in keys for part in (key, repr(float(value)))]
