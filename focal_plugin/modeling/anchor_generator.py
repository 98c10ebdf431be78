"""Anchors whose sizes are multiples of the stride of their level."""

from __future__ import annotations

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
        sizes, strides = options["sizes"], options["strides"]
        if len(sizes) == 1:
            sizes = sizes * len(strides)
        if len(sizes) != len(strides):
            raise ValueError(
                f"MODEL.ANCHOR_GENERATOR.SIZES must be 1 or {len(strides)} lists, got {len(sizes)}"
            )
        scaled = [
            [size * stride for size in of_level]
            for of_level, stride in zip(sizes, strides, strict=True)
        ]
        return {**options, "sizes": scaled}
