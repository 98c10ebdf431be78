"""
Backbones with a feature pyramid: a ResNet whose levels above P5 two keys choose, and one small
enough to train from scratch on a laptop. Both are made of Detectron2's own blocks.
"""

from __future__ import annotations

import itertools

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, ResNet, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_choice

TOP_BLOCKS = ("res5", "p5", "maxpool", "")
"""What `MODEL.FOCAL.FPN.TOP_BLOCK` may be."""

TOP_LEVELS = (2, 1)
"""What `MODEL.FOCAL.FPN.TOP_LEVELS` may be."""


@BACKBONE_REGISTRY.register()
def build_focal_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """
    Same interface as Detectron2's `build_resnet_fpn_backbone`, but `MODEL.FOCAL.FPN.TOP_BLOCK` says
    what the levels above P5 are made of, and `MODEL.FOCAL.FPN.TOP_LEVELS` whether these are P6 and
    P7 (2) or P6 alone (1):

        "res5"     P6 = conv(C5), P7 = conv(relu(P6)), 3x3 with stride 2   (2: stock RetinaNet)
        "p5"       the same, from P5
        "maxpool"  P6 = P5[::2, ::2], P7 = P6[::2, ::2]                    (1: stock Faster R-CNN)
        ""         there is neither

    P5 is what `MODEL.FPN.NORM` has normalized; the levels above it have no norm of their own. Here
    5 stands for the last of `MODEL.FPN.IN_FEATURES`: on top of res4 the two are P5 and P6.
    ("res5" is that of arXiv:1708.02002 section 4, note 2, "maxpool" that of arXiv:1612.03144.)

    Raises:
        ValueError: `MODEL.FOCAL.FPN.TOP_BLOCK` or `TOP_LEVELS` is none of these.
    """
    return _build_fpn(cfg, build_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_small_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """
    A ResNet of one basic block a stage with an FPN on top, p2 (stride 4) upward.

    Reads `MODEL.FOCAL.SMALL_RESNET.WIDTHS` (channels of the stages res2, res3, ...),
    `MODEL.FOCAL.FPN.{TOP_BLOCK, TOP_LEVELS}` as :func:`build_focal_resnet_fpn_backbone`, and of
    Detectron2's own keys `MODEL.RESNETS.{STEM_OUT_CHANNELS, NORM, OUT_FEATURES}` and
    `MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE}`.

    Raises:
        ValueError: a width is not positive or that of the stage before, or there is none; or
            `TOP_BLOCK` or `TOP_LEVELS` is illegal.
    """
    widths = cfg.MODEL.FOCAL.SMALL_RESNET.WIDTHS
    if not widths or min(widths) <= 0:
        raise ValueError(
            f"MODEL.FOCAL.SMALL_RESNET.WIDTHS must be positive channel numbers, got {widths}"
        )
    if any(width == next_width for width, next_width in itertools.pairwise(widths)):
        # Detectron2's BasicBlock has a shortcut, strided or not, between different widths only
        raise ValueError(
            f"MODEL.FOCAL.SMALL_RESNET.WIDTHS must differ from stage to stage, got {widths}"
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
    return _build_fpn(cfg, ResNet(stem, stages, out_features=cfg.MODEL.RESNETS.OUT_FEATURES))


class LastLevelSubsample(nn.Module):
    """
    Same interface as Detectron2's `LastLevelMaxPool`, but as many levels as asked for, on any
    level: every second pixel of ``in_feature``, and of that again. It has no parameters.
    """

    def __init__(self, in_feature: str = "p5", *, num_levels: int = 1) -> None:
        super().__init__()
        self.in_feature = in_feature
        self.num_levels = num_levels

    def forward(self, feature: Tensor) -> list[Tensor]:
        """
        Args:
            feature: (N, C, H, W).

        Returns:
            (N, C, ceil(H / 2), ceil(W / 2)), (N, C, ceil(H / 4), ceil(W / 4)), ..., ``num_levels``
            of them.
        """
        levels = []
        for _ in range(self.num_levels):
            feature = F.max_pool2d(feature, kernel_size=1, stride=2)
            levels.append(feature)
        return levels


class LastLevelP6(LastLevelP6P7):
    """
    Same interface as Detectron2's `LastLevelP6P7`, but P6 alone.

    It begins with the same values as there, and so do the layers built after it.
    """

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "res5") -> None:
        super().__init__(in_channels, out_channels, in_feature)
        self.num_levels = 1
        del self.p7

    def forward(self, feature: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2)), the only level."""
        return [self.p6(feature)]


def _build_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        # made before the FPN's own layers, as stock does: the same draws of the random generator
        top_block=_build_top_block(cfg, bottom_up),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _build_top_block(cfg: CfgNode, bottom_up: Backbone) -> nn.Module | None:
    fpn = cfg.MODEL.FOCAL.FPN
    name = check_choice("MODEL.FOCAL.FPN.TOP_BLOCK", fpn.TOP_BLOCK, TOP_BLOCKS)
    num_levels = check_choice("MODEL.FOCAL.FPN.TOP_LEVELS", fpn.TOP_LEVELS, TOP_LEVELS)
    if name == "":
        return None
    last_stage = cfg.MODEL.FPN.IN_FEATURES[-1]
    last_level = last_stage.replace("res", "p")
    if name == "maxpool":
        return LastLevelSubsample(last_level, num_levels=num_levels)
    convs = LastLevelP6 if num_levels == 1 else LastLevelP6P7
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    if name == "p5":
        return convs(channels, channels, last_level)
    return convs(bottom_up.output_shape()[last_stage].channels, channels, last_stage)
