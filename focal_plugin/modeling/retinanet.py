"""
RetinaNet with its classification loss and its normaliser injected.

Shape shorthand:
    N: number of images
    Hi, Wi: height and width of feature level i
    A: anchors per location
    R: anchors per image over all levels, the sum of Hi * Wi * A
    K: number of classes
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import cat
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet
from detectron2.modeling.box_regression import _dense_box_regression_loss
from detectron2.structures import Boxes
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..losses import build_cls_loss
from .normalizer import build_normalizer


@META_ARCH_REGISTRY.register()
class FocalRetinaNet(RetinaNet):
    """
    Same interface as :class:`detectron2.modeling.RetinaNet`, but what is summed over the anchors
    (`MODEL.FOCAL.CLS_LOSS`) and what the sum is divided by (`MODEL.FOCAL.NORMALIZER`) are parts
    that a config names. At the default keys it is stock RetinaNet: losses, gradients, state-dict
    keys and detections (arXiv:1708.02002).
    """

    @configurable
    def __init__(self, *, cls_loss: nn.Module, normalizer: nn.Module, **kwargs: Any) -> None:
        """
        Args:
            cls_loss: a :class:`~focal_plugin.losses.ClassificationLoss`.
            normalizer: a :class:`~focal_plugin.modeling.normalizer.Normalizer`.
            kwargs: as in :class:`detectron2.modeling.RetinaNet`.

        Raises:
            ValueError: the loss wants softmax logits or a quality, which this detector has not.
        """
        super().__init__(**kwargs)
        if cls_loss.softmax or cls_loss.needs_quality:
            raise ValueError(
                f"{type(cls_loss).__name__} needs softmax logits or the quality of boxes; "
                "FocalRetinaNet gives sigmoid logits and labels"
            )
        self.cls_loss = cls_loss
        self.normalizer = normalizer

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            **super().from_config(cfg),
            "cls_loss": build_cls_loss(cfg),
            "normalizer": build_normalizer(cfg),
        }

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """
        Same interface as :meth:`RetinaNet.losses`, but with the injected loss and normaliser.

        Args:
            anchors: one for each level, Hi * Wi * A boxes.
            pred_logits: one for each level, (N, Hi * Wi * A, K).
            gt_labels: one for each image, (R,), in {-1 (ignored), 0..K-1, K (background)}.
            pred_anchor_deltas: one for each level, (N, Hi * Wi * A, 4).
            gt_boxes: one for each image, (R, 4), of use where the label is 0..K-1.

        Returns:
            "loss_cls" and "loss_box_reg", float32 scalars.
        """
        labels = torch.stack(gt_labels)  # (N, R)
        pos_mask = (labels >= 0) & (labels != self.num_classes)
        num_pos = pos_mask.sum(dim=1)  # (N,)
        num_images = len(labels)
        get_event_storage().put_scalar("num_pos_anchors", num_pos.sum().item() / num_images)

        divisors = self.normalizer(num_pos)  # (G,)
        images_per_group = num_images // len(divisors)
        loss_cls, loss_box_reg = [], []
        for group, divisor in enumerate(divisors):
            images = slice(group * images_per_group, (group + 1) * images_per_group)
            if not self.cls_loss.own_normalizer:
                cls = self._summed_cls_loss([x[images] for x in pred_logits], labels[images])
                loss_cls.append(cls / divisor)
            box_reg = _dense_box_regression_loss(
                anchors,
                self.box2box_transform,
                [x[images] for x in pred_anchor_deltas],
                gt_boxes[images],
                pos_mask[images],
                box_reg_loss_type=self.box_reg_loss_type,
                smooth_l1_beta=self.smooth_l1_beta,
            )
            loss_box_reg.append(box_reg / divisor)
        if self.cls_loss.own_normalizer:
            loss_cls.append(self._summed_cls_loss(pred_logits, labels))
        return {"loss_cls": sum(loss_cls), "loss_box_reg": sum(loss_box_reg)}

    def _summed_cls_loss(self, pred_logits: list[Tensor], labels: Tensor) -> Tensor:
        """Level by level where the loss allows it, which spares a copy of all logits."""
        if not self.cls_loss.decomposes:
            return self.cls_loss(cat(pred_logits, dim=1), labels)
        labels_per_level = labels.split([x.shape[1] for x in pred_logits], dim=1)
        return sum(self.cls_loss(x, y) for x, y in zip(pred_logits, labels_per_level, strict=True))
