"""Which detectors may be given crowd regions: instances with a negative class."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    GeneralizedRCNN,
    ProposalNetwork,
)

from .retinanet import FocalRetinaNet
from .roi_heads import FocalCascadeROIHeads, FocalROIHeads
from .rpn import FocalRPN, crowd_rule_of


def knows_crowds(cfg: CfgNode) -> bool:
    """Whether every part of the detector that sees the instances knows them from objects."""
    detector = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if issubclass(detector, GeneralizedRCNN):
        heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
        return _has_our_rpn(cfg) and issubclass(heads, (FocalROIHeads, FocalCascadeROIHeads))
    if issubclass(detector, ProposalNetwork):
        return _has_our_rpn(cfg)
    return issubclass(detector, FocalRetinaNet)


def loses_crowds(cfg: CfgNode) -> bool:
    """Whether the RPN has a use for crowd regions, and another part does not know them."""
    if knows_crowds(cfg) or not _has_our_rpn(cfg):
        return False
    rule = crowd_rule_of(cfg)
    return rule is not None and rule.threshold <= 1


def _has_our_rpn(cfg: CfgNode) -> bool:
    # "PrecomputedProposals" is a name that no registry has
    generators = dict(PROPOSAL_GENERATOR_REGISTRY)
    generator = generators.get(cfg.MODEL.PROPOSAL_GENERATOR.NAME)
    return generator is not None and issubclass(generator, FocalRPN)
