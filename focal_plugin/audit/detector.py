"""Detector of a config as far as it labels anchors: generator, matcher and crowd rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_anchor_generator, build_backbone
from torch import nn

from ..config import add_focal_config
from ..modeling import config_scopes
from ..modeling.anchor_generator import sizes_in_pixels
from ..modeling.matcher import (
    IGNORED_CROWDS,
    AnchorMatcher,
    CrowdRule,
    build_anchor_matcher,
)
from ..modeling.retinanet import ignores_crowds
from ..modeling.rpn import crowd_rule_of, with_style
from ..registry import DENSE, ConfigScope

RETINANETS = ("FocalRetinaNet", "RetinaNet")
RCNNS = ("GeneralizedRCNN", "PanopticFPN", "ProposalNetwork")
RPNS = ("FocalRPN", "RPN")
STOCK = ("RetinaNet", "RPN")
"""Components that ignore the keys of this package."""

IN_STRIDES, IN_PIXELS = "StrideAnchorGenerator", "DefaultAnchorGenerator"
"""Anchor generators by the unit of their sizes."""


class AnchoredDetector(NamedTuple):
    """
    Parts of a detector that decide the label of each anchor.

    Attributes:
        kind: "RetinaNet" or "RPN".
        cfg: the config, in which the keys that a stock component ignores have their defaults, and
            the sizes of the anchors are in pixels.
        config_scope: the location of the keys of losses and miners.
        num_classes: K, classes of the dataset. The labels of an RPN have one class.
        levels: names of the feature levels.
        strides: pixels between two locations of each level.
        generator: Detectron2's anchor generator.
        size_divisibility: the padded sides of an image are multiples of it; 0 and 1 pad nothing.
        matcher: labels an anchor by its IoU.
        crowd_rule: the anchors that crowd regions exclude; None: none.
        matches_inside_only: if True, only anchors inside the image are matched.
        boundary_thresh: pixels that a matched anchor may be outside of the image; -1: any number.
    """

    kind: str
    cfg: CfgNode
    config_scope: ConfigScope
    num_classes: int
    levels: tuple[str, ...]
    strides: tuple[int, ...]
    generator: nn.Module
    size_divisibility: int
    matcher: AnchorMatcher
    crowd_rule: CrowdRule | None
    matches_inside_only: bool = False
    boundary_thresh: float = -1

    @property
    def assigner(self) -> str:
        """Name of the rule or the loss that training uses; the audit counts labels by IoU."""
        in_use: str = self.config_scope.read(self.cfg, "MODEL.FOCAL.ASSIGNER.NAME")
        bag_loss: str = self.cfg.MODEL.FOCAL.BAG_LOSS.NAME if self.kind == "RetinaNet" else ""
        return bag_loss or in_use

    @property
    def signature(self) -> tuple[Any, ...]:
        """Value that is equal for two detectors that label all anchors alike."""
        cells = [cell.tolist() for _, cell in self.generator.named_buffers()]
        matcher = self.matcher
        return (
            *(self.kind, self.num_classes, self.levels, self.strides, cells),
            *(self.size_divisibility, matcher.thresholds, matcher.labels, matcher.low_quality),
            *(self.crowd_rule, self.matches_inside_only, self.boundary_thresh),
        )


def read_detector(cfg: CfgNode) -> AnchoredDetector:
    """
    Build the parts of a config's detector that label anchors.

    Raises:
        ValueError: the detector has no anchors on a grid, or an option has an illegal value.
        KeyError: a component is unknown.
    """
    model = cfg.MODEL
    generator = model.PROPOSAL_GENERATOR.NAME
    if model.META_ARCHITECTURE in RETINANETS:
        return _retinanet(_as_used(cfg, model.META_ARCHITECTURE))
    if model.META_ARCHITECTURE in RCNNS and generator in RPNS:
        return _rpn(_as_used(cfg, generator))
    named = f"MODEL.META_ARCHITECTURE {model.META_ARCHITECTURE}"
    if model.META_ARCHITECTURE in RCNNS:
        named += f" and MODEL.PROPOSAL_GENERATOR.NAME {generator}"
    raise ValueError(
        "the audit requires a detector with anchors, a RetinaNet or an R-CNN with an RPN, got "
        + named
    )


def _as_used(cfg: CfgNode, component: str) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    if component in STOCK:
        del cfg.MODEL["FOCAL"]
        add_focal_config(cfg)
    return cfg


def _retinanet(cfg: CfgNode) -> AnchoredDetector:
    return AnchoredDetector(
        kind="RetinaNet",
        config_scope=DENSE,
        num_classes=cfg.MODEL.RETINANET.NUM_CLASSES,
        matcher=build_anchor_matcher(cfg),
        crowd_rule=IGNORED_CROWDS if ignores_crowds(cfg) else None,
        **_anchors(cfg, cfg.MODEL.RETINANET.IN_FEATURES),
    )


def _rpn(cfg: CfgNode) -> AnchoredDetector:
    cfg = with_style(cfg)
    return AnchoredDetector(
        kind="RPN",
        config_scope=config_scopes.RPN,
        num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        matcher=build_anchor_matcher(cfg, config_scopes.RPN),
        crowd_rule=crowd_rule_of(cfg),
        matches_inside_only=cfg.MODEL.FOCAL.RPN.MATCHED == "inside",
        boundary_thresh=cfg.MODEL.RPN.BOUNDARY_THRESH,
        **_anchors(cfg, cfg.MODEL.RPN.IN_FEATURES),
    )


def with_sizes_in_pixels(cfg: CfgNode, strides: Sequence[int] | None = None) -> CfgNode:
    """
    Return a config with the same anchors whose sizes are in pixels, not in strides.

    Args:
        strides: those of the feature levels. None: those of the config's detector.
    """
    generator = cfg.MODEL.ANCHOR_GENERATOR
    if generator.NAME != IN_STRIDES:
        return cfg
    strides = read_detector(cfg).strides if strides is None else strides
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ANCHOR_GENERATOR.NAME = IN_PIXELS
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = sizes_in_pixels(generator.SIZES, strides)
    return cfg


def _anchors(cfg: CfgNode, features: list[str]) -> dict[str, Any]:
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    missing = [name for name in features if name not in shapes]
    if missing:
        raise ValueError(
            f"the detector uses {', '.join(missing)}, but {cfg.MODEL.BACKBONE.NAME} has "
            f"{', '.join(shapes)}"
        )
    try:
        generator = build_anchor_generator(cfg, [shapes[name] for name in features])
    except AssertionError as error:
        raise ValueError(
            f"MODEL.ANCHOR_GENERATOR must have SIZES and ASPECT_RATIOS for {len(features)} levels, "
            f"or one list for all of them: {error}"
        ) from error
    if generator.box_dim != 4:
        raise ValueError(
            f"the audit requires anchors without an angle, got {cfg.MODEL.ANCHOR_GENERATOR.NAME}"
        )
    strides = tuple(shapes[name].stride for name in features)
    return {
        "cfg": with_sizes_in_pixels(cfg, strides),
        "levels": tuple(features),
        "strides": strides,
        "generator": generator,
        "size_divisibility": backbone.size_divisibility,
    }
