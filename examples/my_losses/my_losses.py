"""
Two losses of your own, outside of focal_plugin.

    python train_net.py --config-file Shapes-Detection/retinanet_small.yaml \
        --import examples/my_losses/my_losses.py MODEL.FOCAL.CLS_LOSS.NAME SquaredErrorLoss
    focal-compare run examples/my_losses/comparison.yaml

Copy this folder, and insert your own formula. Once the copy is installed with pip, `--import` is
not needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from focal_plugin.checks import check_option
from focal_plugin.losses import CLS_LOSS_REGISTRY
from focal_plugin.losses.elementwise import ElementwiseLoss
from focal_plugin.ops import Formula, Point, Terms
from focal_plugin.registry import configurable


@CLS_LOSS_REGISTRY.register()
class SquaredErrorLoss(nn.Module):
    """Sum of factor * (p - target)^2. It is a plain module, the shortest way to a loss."""

    config_keys = {"factor": "MODEL.FOCAL.CLS_LOSS.SQUARED_ERROR_FACTOR"}

    def __init__(self, factor: float = 4.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the sum from logits (V, K) and labels (V,) in 0..K, where K is background."""
        num_classes = logits.shape[1]
        targets = F.one_hot(labels, num_classes + 1)[:, :num_classes]
        return self.factor * (torch.sigmoid(logits) - targets).square().sum()


@dataclass(frozen=True)
class Power(Formula):
    """Formula (1 - p_t)^power. Any loss of one logit has this form: its value and its slope."""

    power: float

    def value(self, at: Point) -> Tensor:
        return at.q**self.power  # at.p is p_t, at.q is 1 - p_t

    def slope(self, at: Point) -> Tensor:
        return -self.power * at.q**self.power * at.p


@CLS_LOSS_REGISTRY.register()
class SigmoidPowerLoss(ElementwiseLoss):
    """Sum of the formula over all classes of all anchors that are not ignored, faster."""

    config_keys = {"power": "MODEL.FOCAL.CLS_LOSS.POWER"}

    @configurable
    def __init__(self, *, power: float = 2.0) -> None:
        super().__init__()
        self.power = check_option("power", power, low=1)

    def terms(self, logits: Tensor) -> Terms:
        return Terms(Power(self.power), Power(self.power))  # positives, negatives
