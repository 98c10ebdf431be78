"""WHAT is summed: tensors in, a float32 scalar out. One file a loss, as function and as module."""

from .build import CLS_LOSS_REGISTRY, ClassificationLoss, build_cls_loss
from .sigmoid_cross_entropy import SigmoidCrossEntropyLoss, sigmoid_cross_entropy_loss
from .sigmoid_focal import SigmoidFocalLoss, sigmoid_focal_loss
from .sigmoid_focal_star import SigmoidFocalStarLoss, sigmoid_focal_star_loss

__all__ = [
    "CLS_LOSS_REGISTRY",
    "ClassificationLoss",
    "SigmoidCrossEntropyLoss",
    "SigmoidFocalLoss",
    "SigmoidFocalStarLoss",
    "build_cls_loss",
    "sigmoid_cross_entropy_loss",
    "sigmoid_focal_loss",
    "sigmoid_focal_star_loss",
]
