"""
Classification loss of a config before the first step, when every logit is at its prior.

Shape shorthand:
    K: number of classes of the labels; 1 for an RPN
    R: anchors of an image
    V: positive anchors of an image
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_option
from ..losses import (
    BoxLoss,
    ClassificationLoss,
    SigmoidCrossEntropyLoss,
    SigmoidFocalLoss,
    build_box_loss,
    build_cls_loss,
)
from ..losses.base import distribute_by_gradient
from ..mining import Miner, build_miner
from ..modeling.heads import check_prior_prob
from ..modeling.normalizer import RPN_NORMALIZERS, Normalizer, build_normalizer
from ..modeling.rpn import sampling_of, transform_of_std
from .detector import AnchoredDetector

PRIOR_RPN_HEADS = ("PriorRPNHead", "SoftmaxRPNHead")
"""RPN heads that start at `MODEL.FOCAL.RPN.PRIOR_PROB`; others start at 1/2."""


class RandomSample(NamedTuple):
    """Stock RPN's sample of each image: anchors in all, and most of them that are positive."""

    size: int
    positives: int


class Start(NamedTuple):
    """
    Classification loss at the start of training.

    Attributes:
        cls_loss: the loss.
        normalizer: the divisor.
        num_classes: K.
        prior_prob: pi, the probability of an object that a fresh head gives.
        sampling: the anchors that count: a miner, a random sample, or None for all.
        weight: factor of the loss.
        num_images: images of a batch.
        box_loss, transform: the box loss, by which a miner may rank, and the deltas of boxes.
    """

    cls_loss: ClassificationLoss
    normalizer: Normalizer
    num_classes: int
    prior_prob: float
    sampling: Miner | RandomSample | None
    weight: float
    num_images: int
    box_loss: BoxLoss
    transform: Box2BoxTransform

    @property
    def logit(self) -> float:
        """Every logit; that of a softmax loss is relative to the background."""
        if self.cls_loss.softmax:
            return -math.log((1 - self.prior_prob) / self.prior_prob * self.num_classes)
        return self.cls_loss.bias_of(self.prior_prob)


def start_of(detector: AnchoredDetector) -> Start:
    """
    Build the classification loss of a detector with all that decides its value.

    Raises:
        KeyError: a component is unknown.
        ValueError: an option has an illegal value.
    """
    cfg, scope = detector.cfg, detector.config_scope
    is_dense = detector.kind == "RetinaNet"
    normalizers = {} if is_dense else {"normalizers": RPN_NORMALIZERS}
    weight = scope.read(cfg, "MODEL.FOCAL.CLS_LOSS.WEIGHT")
    return Start(
        cls_loss=build_cls_loss(cfg, scope).eval(),
        normalizer=build_normalizer(cfg, **normalizers, config_scope=scope),
        num_classes=scope.read(cfg, "MODEL.RETINANET.NUM_CLASSES"),
        prior_prob=_prior_of_retinanet(cfg) if is_dense else _prior_of_rpn(cfg),
        sampling=build_miner(cfg) if is_dense else _sampling_of_rpn(cfg),
        weight=weight if is_dense else weight * cfg.MODEL.RPN.LOSS_WEIGHT,
        num_images=cfg.SOLVER.IMS_PER_BATCH,
        box_loss=build_box_loss(cfg, scope).eval(),
        transform=_transform(detector),
    )


def references(start: Start) -> dict[str, Start]:
    """Return cross entropy and focal loss of all anchors in place of a loss, at its prior."""
    losses = {"CE": SigmoidCrossEntropyLoss(), "FL": SigmoidFocalLoss(alpha=0.25, gamma=2.0)}
    return {
        name: start._replace(cls_loss=loss.eval(), sampling=None, weight=1.0)
        for name, loss in losses.items()
    }


def _prior_of_retinanet(cfg: CfgNode) -> float:
    check_prior_prob(cfg)
    prior: float = cfg.MODEL.RETINANET.PRIOR_PROB
    return prior


def _prior_of_rpn(cfg: CfgNode) -> float:
    if cfg.MODEL.RPN.HEAD_NAME not in PRIOR_RPN_HEADS:
        return 0.5
    key = "MODEL.FOCAL.RPN.PRIOR_PROB"
    prior = cfg.MODEL.FOCAL.RPN.PRIOR_PROB
    return check_option(key, prior, low=0, high=1, open_low=True, open_high=True)


def _transform(detector: AnchoredDetector) -> Box2BoxTransform:
    model = detector.cfg.MODEL
    if detector.kind == "RetinaNet":
        return Box2BoxTransform(weights=model.RETINANET.BBOX_REG_WEIGHTS)
    if model.FOCAL.RPN.TARGET_STD:
        return transform_of_std(model.FOCAL.RPN.TARGET_STD)
    return Box2BoxTransform(weights=model.RPN.BBOX_REG_WEIGHTS)


def _sampling_of_rpn(cfg: CfgNode) -> Miner | RandomSample | None:
    sampling = sampling_of(cfg)
    if isinstance(sampling, Miner):
        return sampling
    if sampling == "all":
        return None
    size = cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE
    return RandomSample(size, int(size * cfg.MODEL.RPN.POSITIVE_FRACTION))


class AnchorTerms(NamedTuple):
    """Loss of anchors, and the sum of their logits' absolute gradients; float64."""

    loss: Tensor
    gradient: Tensor


def terms_of_labels(start: Start) -> AnchorTerms:
    """
    Return the terms of one anchor of each label 0..K, (K + 1,) each.

    They are exact for a loss that is a sum over anchors and uses no IoU.
    """
    labels = torch.arange(start.num_classes + 1)
    if start.cls_loss.has_rows:
        return terms_of_anchors(start, labels)
    rows = [terms_of_anchors(start, label) for label in labels.split(1)]
    return AnchorTerms(*(torch.cat(field) for field in zip(*rows, strict=True)))


def terms_of_anchors(start: Start, labels: Tensor, quality: Tensor | None = None) -> AnchorTerms:
    """
    Return the terms of the anchors of an image, (R,) each.

    Args:
        labels: (R,), int64 in {-1 (ignored), 0..K-1, K (background)}.
        quality: (R,), IoU of each positive anchor with its object, for a loss that uses it.
    """
    logits = torch.full((len(labels), start.num_classes), start.logit, requires_grad=True)
    padded = F.pad(logits, (0, 1)) if start.cls_loss.softmax else logits
    options: dict[str, Any] = {"quality": quality} if start.cls_loss.needs_quality else {}
    if start.cls_loss.has_rows:
        loss = start.cls_loss.per_anchor(padded, labels, **options)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
    else:
        total = _total(start.cls_loss, padded, labels, **options)
        (gradient,) = torch.autograd.grad(total, logits)
        loss = distribute_by_gradient(total, gradient)
    return AnchorTerms(loss.detach().double(), gradient.double().abs().sum(dim=1))


def _total(
    loss: ClassificationLoss, logits: Tensor, labels: Tensor, quality: Tensor | None = None
) -> Tensor:
    """Return the loss of the anchors of one image as a scalar."""
    image = None if quality is None else quality.unsqueeze(0)
    return loss(logits.unsqueeze(0), labels.unsqueeze(0), quality=image)
