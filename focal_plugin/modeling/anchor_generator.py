"""Anchors whose sizes are multiples of the stride of their level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY, DefaultAnchorGenerator


@ANCHOR_GENERATOR_REGISTRY.register()
class StrideAnchorGenerator(DefaultAnchorGenerator):
    """
    Detectron2's generator, but `MODEL.ANCHOR_GENERATOR.SIZES` is in strides of the level.

    One list serves every level of any pyramid. ATSS has one square of 8 strides at a location
    (arXiv:1912.02424 section 3.1).
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        options: dict[str, Any] = super().from_config(cfg, input_shape)
        sizes = sizes_in_pixels(options["sizes"], options["strides"])
        return {**options, "sizes": sizes}


def sizes_in_pixels(sizes: Sequence[Sequence[float]], strides: Sequence[int]) -> list[list[float]]:
    """
    Convert sizes in strides of the level.

    Args:
        sizes: one list for each level, or one for all.
        strides: one for each level.

    Returns:
        one list for each level, in pixels.

    Raises:
        ValueError: there is another number of lists.
    """
    of_levels = [*sizes] * (len(strides) if len(sizes) == 1 else 1)
    if len(of_levels) != len(strides):
        raise ValueError(
            f"MODEL.ANCHOR_GENERATOR.SIZES must be 1 or {len(strides)} lists, got {len(sizes)}"
        )
    return [[x * stride for x in level] for level, stride in zip(of_levels, strides, strict=True)]
