"""Model components: subclasses of Detectron2's classes that implement only the difference."""

from .anchor_generator import StrideAnchorGenerator
from .assigners import build_assigner
from .backbones import build_focal_resnet_fpn_backbone, build_small_resnet_fpn_backbone
from .balance import build_balance
from .box_heads import FocalFastRCNNConvFCHead
from .class_names import name_classes
from .crowds import key_of_crowds, knows_crowds, loses_crowds
from .fast_rcnn import FocalFastRCNNOutputLayers
from .heads import RETINANET_HEAD_REGISTRY, build_retinanet_head
from .normalizer import build_normalizer
from .retinanet import FocalRetinaNet
from .roi_heads import (
    FocalCascadeROIHeads,
    FocalROIHeads,
    OHEMCascadeROIHeads,
    OHEMROIHeads,
    SampledCascadeROIHeads,
    SampledROIHeads,
)
from .rpn import FocalRPN
from .rpn_heads import PriorRPNHead, SoftmaxRPNHead
from .test_time_augmentation import build_tta, check_tta

__all__ = [
    "RETINANET_HEAD_REGISTRY",
    "FocalCascadeROIHeads",
    "FocalFastRCNNConvFCHead",
    "FocalFastRCNNOutputLayers",
    "FocalROIHeads",
    "FocalRPN",
    "FocalRetinaNet",
    "OHEMCascadeROIHeads",
    "OHEMROIHeads",
    "PriorRPNHead",
    "SampledCascadeROIHeads",
    "SampledROIHeads",
    "SoftmaxRPNHead",
    "StrideAnchorGenerator",
    "build_assigner",
    "build_balance",
    "build_focal_resnet_fpn_backbone",
    "build_normalizer",
    "build_retinanet_head",
    "build_small_resnet_fpn_backbone",
    "build_tta",
    "check_tta",
    "key_of_crowds",
    "knows_crowds",
    "loses_crowds",
    "name_classes",
]
