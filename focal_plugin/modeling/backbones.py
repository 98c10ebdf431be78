"""
Backbones with a feature pyramid, made of Detectron2's own blocks.

The first is a ResNet with configurable levels above P5. The second is small enough to train from
scratch on a laptop.
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
from .unused_keys import refuse_unused

TOP_BLOCKS = ("res5", "p5", "maxpool", "")
"""Legal values of `MODEL.FOCAL.FPN.TOP_BLOCK`."""

TOP_LEVELS = (2, 1)
"""Legal values of `MODEL.FOCAL.FPN.TOP_LEVELS`."""

_RESNET_STAGES = 4  # res2 to res5, at every depth

_READ_BY_SMALL_RESNET = {
    f"MODEL.RESNETS.{name}" for name in ("STEM_OUT_CHANNELS", "NORM", "OUT_FEATURES")
}


@BACKBONE_REGISTRY.register()
def build_focal_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """
    Build Detectron2's `build_resnet_fpn_backbone` with configurable levels above P5.

    `MODEL.FOCAL.FPN.TOP_BLOCK` selects how these levels are computed. `MODEL.FOCAL.FPN.TOP_LEVELS`
    selects P6 and P7 (2) or P6 only (1):

        "res5"     P6 = conv(C5), P7 = conv(relu(P6)), 3x3 with stride 2   (2: stock RetinaNet)
        "p5"       the same, from P5
        "maxpool"  P6 = P5[::2, ::2], P7 = P6[::2, ::2]                    (1: stock Faster R-CNN)
        ""         neither

    `MODEL.FPN.NORM` normalizes P5, and the levels above it have no norm of their own. The 5 stands
    for the last of `MODEL.FPN.IN_FEATURES`: with res4 as the last, the two levels are P5 and P6.
    ("res5" is that of arXiv:1708.02002 section 4, note 2, "maxpool" that of arXiv:1612.03144.)

    Raises:
        ValueError: `MODEL.FOCAL.FPN.TOP_BLOCK`, `TOP_LEVELS` or `MODEL.BACKBONE.FREEZE_AT` has
            another value.
    """
    _freeze_at(cfg, num_stages=_RESNET_STAGES)  # stock's ResNet accepts every number
    return _build_fpn(cfg, build_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_small_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """
    Build a ResNet of one basic block per stage with an FPN on top, from p2 (stride 4) up.

    It reads `MODEL.FOCAL.SMALL_RESNET.WIDTHS` (channels of the stages res2, res3, ...) and
    `MODEL.FOCAL.FPN.{TOP_BLOCK, TOP_LEVELS}` like :func:`build_focal_resnet_fpn_backbone`. Of
    Detectron2's own keys it reads `MODEL.RESNETS.{STEM_OUT_CHANNELS, NORM, OUT_FEATURES}`,
    `MODEL.BACKBONE.FREEZE_AT` and `MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE}`. The
    other keys of `MODEL.RESNETS` must have their defaults, because its basic blocks have no such
    options.

    Raises:
        ValueError: there is no width, a width is not positive or equals that of the previous stage,
            or `TOP_BLOCK`, `TOP_LEVELS`, `FREEZE_AT` or another key is illegal.
    """
    refuse_unused(
        cfg,
        {f"MODEL.RESNETS.{name}" for name in cfg.MODEL.RESNETS} - _READ_BY_SMALL_RESNET,
        by="MODEL.BACKBONE.NAME",
    )
    widths = cfg.MODEL.FOCAL.SMALL_RESNET.WIDTHS
    if not widths or min(widths) <= 0:
        raise ValueError(
            f"MODEL.FOCAL.SMALL_RESNET.WIDTHS must be positive channel numbers, got {widths}"
        )
    if any(width == next_width for width, next_width in itertools.pairwise(widths)):
        # Detectron2's BasicBlock has a shortcut between different widths only, with any stride
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
    resnet = ResNet(
        stem,
        stages,
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        freeze_at=_freeze_at(cfg, num_stages=len(stages)),
    )
    return _build_fpn(cfg, resnet)


class LastLevelSubsample(nn.Module):
    """
    Top block like Detectron2's `LastLevelMaxPool`, with any number of levels on any feature.

    Each level takes every second pixel of the previous one, beginning with ``in_feature``. It has
    no parameters.
    """

    def __init__(self, in_feature: str = "p5", *, num_levels: int = 1) -> None:
        super().__init__()
        self.in_feature = in_feature
        self.num_levels = num_levels

    def forward(self, feature: Tensor) -> list[Tensor]:
        """
        Subsample a feature ``num_levels`` times.

        Args:
            feature: (N, C, H, W).

        Returns:
            ``num_levels`` tensors (N, C, ceil(H / 2), ceil(W / 2)), (N, C, ceil(H / 4),
            ceil(W / 4)), ...
        """
        levels = []
        for _ in range(self.num_levels):
            feature = F.max_pool2d(feature, kernel_size=1, stride=2)
            levels.append(feature)
        return levels


class LastLevelP6(LastLevelP6P7):
    """
    Top block like Detectron2's `LastLevelP6P7`, with P6 only.

    The initial weights are those of Detectron2's block, and so are those of later layers.
    """

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "res5") -> None:
        super().__init__(in_channels, out_channels, in_feature)
        self.num_levels = 1
        del self.p7

    def forward(self, feature: Tensor) -> list[Tensor]:
        """Compute P6: (N, C, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2))."""
        return [self.p6(feature)]


def _freeze_at(cfg: CfgNode, *, num_stages: int) -> int:
    """Return the number of stages to freeze, the stem included."""
    freeze_at: int = cfg.MODEL.BACKBONE.FREEZE_AT
    if not 0 <= freeze_at <= num_stages + 1:
        raise ValueError(
            f"MODEL.BACKBONE.FREEZE_AT must be in 0 (nothing is frozen) to {num_stages + 1} (stem "
            f"and {num_stages} stages), got {freeze_at}"
        )
    return freeze_at


def _build_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        # built before the FPN's own layers, as in stock: the random draws are the same
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
