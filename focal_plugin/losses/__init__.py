"""Losses: tensors in, a float32 scalar out. Each file holds one loss, as function and as module."""

from .alrp import ALRPLoss, alrp_loss
from .ap import APLoss, ap_loss
from .ape import APELoss, ape_loss
from .asymmetric import AsymmetricLoss, asymmetric_loss
from .balanced_l1 import BalancedL1Loss, balanced_l1_loss
from .base import BagLoss
from .box_iou import (
    CIoULoss,
    DIoULoss,
    GIoULoss,
    IoULoss,
    ciou_loss,
    diou_loss,
    elementwise_iou,
    giou_loss,
    iou_loss,
)
from .build import (
    BAG_LOSS_REGISTRY,
    BOX_LOSS_REGISTRY,
    CLS_LOSS_REGISTRY,
    BoxLoss,
    ClassificationLoss,
    build_bag_loss,
    build_box_loss,
    build_cls_loss,
)
from .carl import carl_loss
from .class_alpha import class_alpha_of_counts
from .class_balanced_focal import ClassBalancedFocalLoss, class_balanced_focal_loss
from .distribution_focal import distribution_focal_loss
from .dr import DRLoss, dr_loss
from .effective_class_margin import EffectiveClassMarginLoss, effective_class_margin_loss
from .equalization import EqualizationLoss, equalization_loss
from .equalization_v2 import EqualizationLossV2, equalization_loss_v2
from .equalized_focal import EqualizedFocalLoss, equalized_focal_loss
from .free_anchor import FreeAnchorLoss, free_anchor_loss
from .ghm import GHMLoss, ghm_loss
from .ghm_box import GHMBoxLoss, ghm_box_loss
from .gumbel import GumbelLoss, gumbel_loss
from .huber import HuberLoss, huber_loss
from .iou_aware_cross_entropy import IoUAwareCrossEntropyLoss, iou_aware_cross_entropy_loss
from .isr_p import isr_p_weights
from .matchability_aware import MatchabilityAwareLoss, matchability_aware_loss
from .poly_focal import PolyFocalLoss, poly_focal_loss
from .quality_focal import QualityFocalLoss, quality_focal_loss
from .rank_sort import RankSortLoss, rank_sort_loss
from .seesaw import SeesawLoss, seesaw_loss
from .sigmoid_cross_entropy import SigmoidCrossEntropyLoss, sigmoid_cross_entropy_loss
from .sigmoid_focal import SigmoidFocalLoss, sigmoid_focal_loss
from .sigmoid_focal_star import SigmoidFocalStarLoss, sigmoid_focal_star_loss
from .sigmoid_hinge import SigmoidHingeLoss, sigmoid_hinge_loss
from .smooth_l1 import L1Loss, SmoothL1Loss, l1_loss, smooth_l1_loss
from .softmax_cross_entropy import SoftmaxCrossEntropyLoss, softmax_cross_entropy_loss
from .softmax_focal import SoftmaxFocalLoss, softmax_focal_loss
from .varifocal import VarifocalLoss, varifocal_loss
