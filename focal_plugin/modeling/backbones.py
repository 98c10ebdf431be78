"""A backbone small enough to train from scratch on a laptop, from Detectron2's own blocks."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem


@BACKBONE_REGISTRY.register()
def build_small_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """
    A ResNet of one basic block a stage with an FPN on top, p2 (stride 4) upwards.

    Reads `MODEL.FOCAL.SMALL_RESNET.WIDTHS` (channels of the stages res2, res3, ...), and of
    Detectron2's own keys `MODEL.RESNETS.{STEM_OUT_CHANNELS, NORM, OUT_FEATURES}` and
    `MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE}`.

    Raises:
        ValueError: a width is not positive, or there is none.
    """
    widths = cfg.MODEL.FOCAL.SMALL_RESNET.WIDTHS
    if not widths or min(widths) <= 0:
        raise ValueError(
            f"MODEL.FOCAL.SMALL_RESNET.WIDTHS must be positive channel numbers, got {widths}"
        )
    norm = cfg.MODEL.RESNETS.NORM
    stem = BasicStem(input_shape.channels, cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, norm)
    in_widths = [cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, *widths[:-1]]
    stages = [
        ResNet.make_stage(
            BasicBlock,
            num_blocks=1,
            stride_per_block=[1 if index == 0 else 2],
            in_channels=in_width,
            out_channels=width,
            norm=norm,
        )
        for index, (in_width, width) in enumerate(zip(in_widths, widths, strict=True))
    ]
    return FPN(
        bottom_up=ResNet(stem, stages, out_features=cfg.MODEL.RESNETS.OUT_FEATURES),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
