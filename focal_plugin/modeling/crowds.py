"""Support for crowd regions, which are instances with a negative class, by each detector."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    GeneralizedRCNN,
    ProposalNetwork,
)

from .retinanet import FocalRetinaNet, ignores_crowds
from .roi_heads import FocalCascadeROIHeads, FocalROIHeads
from .rpn import FocalRPN, crowd_rule_of


def knows_crowds(cfg: CfgNode) -> bool:
    """Return True if every component that receives `gt_instances` handles crowd regions."""
    detector = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if issubclass(detector, GeneralizedRCNN):
        heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
        return _has_our_rpn(cfg) and issubclass(heads, (FocalROIHeads, FocalCascadeROIHeads))
    if issubclass(detector, ProposalNetwork):
        return _has_our_rpn(cfg)
    return issubclass(detector, FocalRetinaNet)


def loses_crowds(cfg: CfgNode) -> bool:
    """Return True if the RPN uses crowd regions, but another component does not handle them."""
    if knows_crowds(cfg) or not _has_our_rpn(cfg):
        return False
    rule = crowd_rule_of(cfg)
    return rule is not None and rule.threshold <= 1


def key_of_crowds(cfg: CfgNode) -> str:
    """Return the key that would make training ignore crowd regions; "" if it ignores them."""
    detector = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if issubclass(detector, (GeneralizedRCNN, ProposalNetwork)):
        rule = crowd_rule_of(cfg)
        ignored = knows_crowds(cfg) and rule is not None and rule.threshold <= 1
        return "" if ignored else "MODEL.FOCAL.RPN.CROWD"
    ignored = knows_crowds(cfg) and ignores_crowds(cfg)
    return "" if ignored else "MODEL.FOCAL.ANCHOR_LABELS.CROWD"


def _has_our_rpn(cfg: CfgNode) -> bool:
    # "PrecomputedProposals" is a legal name that is not in the registry
    generators = dict(PROPOSAL_GENERATOR_REGISTRY)
    generator = generators.get(cfg.MODEL.PROPOSAL_GENERATOR.NAME)
    return generator is not None and issubclass(generator, FocalRPN)
