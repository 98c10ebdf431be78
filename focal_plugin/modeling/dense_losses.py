"""
Classification and box loss of a dense detector, computed by injected components.

The input is the output of the detector's head and the ground truth.

Shape shorthand:
    N: number of images
    Hi, Wi: height and width of feature level i
    A: anchors per location
    Ri: anchors of feature level i, Hi * Wi * A
    R: anchors per image over all levels, the sum of Ri
    K: number of classes
    V: positive anchors in the batch
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.layers import cat
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_choice
from ..losses import BoxLoss, ClassificationLoss, elementwise_iou
from ..losses.base import require_rows
from ..mining import Miner
from ..ops.layout import Layout
from ..ops.level_rows import rows_of_levels, split_levels
from ..registry import DENSE, ConfigScope
from .balance import Balance, SharedFeatures
from .box_output_heads import BoxOutputHead, BoxOutputs, centerness_of
from .box_weights import check_box_weights, divisor_of_weights, scores_of
from .dense_targets import DenseTargets
from .normalizer import Normalizer, PerImageNormalizer
from .prime_samples import CARLTerm, ISRPReweighting, check_prime_samples, objects_of_batch

BOX_WEIGHTS = ("", "score", "iou", "centerness", "target")
"""Legal values of `MODEL.FOCAL.BOX_LOSS.WEIGHTED_BY`."""


def box_weighting_of(cfg: CfgNode, config_scope: ConfigScope = DENSE) -> str:
    """
    Return `MODEL.FOCAL.BOX_LOSS.WEIGHTED_BY`.

    Args:
        config_scope: the location of the key, if it is moved.

    Raises:
        ValueError: it has an illegal value; the message names its full key.
    """
    key = "MODEL.FOCAL.BOX_LOSS.WEIGHTED_BY"
    return check_choice(config_scope.key(key), config_scope.read(cfg, key), BOX_WEIGHTS)


class DenseBatch(NamedTuple):
    """Predictions of the head for all anchors of a batch, in place, and their targets."""

    anchors: Tensor  # (R, 4), XYXY
    logits: list[Tensor]  # one per level, (N, ..., K), or K+1 for a softmax loss
    deltas: list[Tensor]  # one per level, (N, ..., 4)
    targets: DenseTargets
    box_outputs: list[Tensor] | None  # one per level, (N, ..., D), if a head has more than deltas


class DenseStep(NamedTuple):
    """Inputs of both losses of a batch, before any state changes."""

    anchors: Tensor  # (R, 4), XYXY
    logits: list[Tensor]  # one per level, (N, Ri, K), or K+1 for a softmax loss
    targets: DenseTargets
    labels: Tensor  # (N, R), int64 in {-1 (ignored), 0..K-1, K (background)}
    kept_labels: Tensor  # (N, R), labels with -1 for the anchors that mining drops
    quality: Tensor | None  # (N, R), IoU; None if the loss does not use it
    cls_weights: Tensor | None  # (N, R), weights of the classification losses; None: 1 each
    cls_divisors: Tensor  # (N,), or (1,) for all images; unused if the loss is normalized
    boxed: Tensor  # (N, R), bool, the anchors of the box loss
    box_pairs: tuple[Tensor, Tensor]  # (V, 4) each, predictions and targets of these anchors
    box_weights: Tensor | None  # (V,), weights of their losses; None: 1 each
    box_divisors: Tensor  # like cls_divisors


class DenseResult(NamedTuple):
    """Losses of a batch, and the anchors that contribute."""

    loss_cls: Tensor  # float32 scalar, divided by the normalizer and balanced
    loss_box: Tensor  # float32 scalar, divided by the normalizer and balanced
    num_pos: Tensor  # (N,), int64, positive anchors before mining
    labels: Tensor  # (N, R), labels of the batch, with -1 for the anchors that mining drops
    auxiliary: dict[str, Tensor]  # name -> float32 scalar, all other losses


class DenseLossMixin:
    """
    Mixin for a detector with these components as attributes. It holds no state.

    Attributes:
        cls_loss: the loss of all anchors that count.
        box_loss: the loss of the positive anchors.
        box_weighted_by: the weight of each box, one of :data:`BOX_WEIGHTS`.
        normalizer: the divisor of both losses.
        balance: the balance between both losses.
        shared_features: the features that the balance reads; None: it reads none.
        miner: the selection of the anchors that count; None: every anchor counts.
        reweighting: the weights of the classification loss of the positives; None: 1 each.
        carl: the box term that trains the scores; None: there is none.
        box2box_transform: the conversion between deltas and boxes.
        head: the head, if it predicts more than logits and deltas.
        observer: called with each batch's :class:`DenseStep`, before its losses; None: no call.
    """

    cls_loss: ClassificationLoss
    box_loss: BoxLoss
    box_weighted_by: str
    normalizer: Normalizer
    balance: Balance
    shared_features: SharedFeatures | None
    miner: Miner | None
    reweighting: ISRPReweighting | None
    carl: CARLTerm | None
    box2box_transform: Box2BoxTransform
    head: nn.Module
    observer: Callable[[DenseStep], None] | None = None

    def check_parts(self) -> None:
        """
        Check that the components work together.

        Raises:
            ValueError: a component requires the loss of each anchor or box, and a loss is a sum
                only; or the boxes of a loss that is already normalized are weighted; or a loss of
                classes and boxes is weighted.
        """
        check_choice("weighted_by", self.box_weighted_by, BOX_WEIGHTS)
        if self.miner is not None or isinstance(self.normalizer, PerImageNormalizer):
            require_rows(self.cls_loss)
        check_prime_samples(self.cls_loss, self.box_loss, self.reweighting, self.carl)
        check_box_weights(self.box_weighted_by, self.cls_loss, self.box_loss)

    def train(self, mode: bool = True) -> Any:
        """Set the mode, and record the shared features in training mode only."""
        result = super().train(mode)  # type: ignore[misc]  # of the detector, an nn.Module
        if self.shared_features is not None:
            self.shared_features.attach(mode)
        return result

    def dense_losses(
        self,
        anchors: list[Boxes],
        logits: list[Tensor],
        targets: DenseTargets,
        deltas: list[Tensor],
        *,
        box_outputs: list[Tensor] | None = None,
        log_as: str = "balance",
    ) -> DenseResult:
        """
        Compute both losses of a batch; a differentiable 0 if there is nothing to sum.

        Args:
            anchors: one per level, Ri boxes.
            logits: one per level, (N, Ri, K), relative to the background logit for softmax; or
                (N, Hi, Wi, A, K), in the memory layout of the head's output.
            targets: the targets of all anchors.
            deltas: one per level, (N, Ri, 4) or (N, Hi, Wi, A, 4).
            box_outputs: one per level, (N, Hi, Wi, A, D), of a head that predicts more than deltas.
            log_as: prefix of what the balance logs.
        """
        num_classes = logits[0].shape[-1]
        if not self.cls_loss.any_layout:
            logits = _as_rows(logits)
        if self.cls_loss.softmax:
            logits = [_with_background(x) for x in logits]
        batch = DenseBatch(Boxes.cat(anchors).tensor, logits, deltas, targets, box_outputs)
        labels = targets.labels
        positives = (labels >= 0) & (labels != num_classes)  # (N, R)
        num_pos = positives.sum(dim=1)
        quality = self._quality(batch, positives) if self.cls_loss.needs_quality else None
        boxed = positives
        if self.miner is not None:
            keep = self._mine(self.miner, batch, positives, quality)
            labels = labels.masked_fill(~keep, -1)
            if self.miner.box_loss_on == "kept":
                boxed = positives & keep

        num_counted = (labels >= 0).sum(dim=1)
        weighed_pos = num_pos if targets.weight is None else (targets.weight * positives).sum(dim=1)
        cls_divisors, box_divisors = self.normalizer.of_both_losses(
            weighed_pos, num_counted=num_counted, num_boxes=boxed.sum(dim=1)
        )
        if self.miner is not None and self.miner.divide_by == "kept":
            cls_divisors = num_counted.sum().clamp(min=1).float().unsqueeze(0)
        box_weights = self._box_weights(batch, boxed)
        if box_weights is not None and self.box_weighted_by != "target":
            box_divisors = divisor_of_weights(box_weights).unsqueeze(0)
        if self.observer is not None:
            self.observer(
                DenseStep(
                    anchors=batch.anchors,
                    logits=_as_rows(batch.logits),
                    targets=targets,
                    labels=targets.labels,
                    kept_labels=labels,
                    quality=quality,
                    cls_weights=self._weights_before(batch, labels, quality),
                    cls_divisors=cls_divisors,
                    boxed=boxed,
                    box_pairs=self._box_pairs(batch, boxed),
                    box_weights=box_weights,
                    box_divisors=box_divisors,
                )
            )
        if self.cls_loss.needs_box_loss:
            loss_cls, loss_box = self._both_losses(batch, labels, boxed)
        else:
            loss_cls = self._cls_loss(batch, labels, quality, cls_divisors)
            loss_box = self._box_loss(batch, boxed, box_weights, box_divisors)
        shared = self.shared_features.take() if self.shared_features is not None else []
        loss_cls, loss_box = self.balance(loss_cls, loss_box, shared=shared, log_as=log_as)
        auxiliary = self._auxiliary_losses(batch, boxed, box_weights, box_divisors)
        return DenseResult(loss_cls, loss_box, num_pos, labels, auxiliary)

    def _cls_loss(
        self, batch: DenseBatch, labels: Tensor, quality: Tensor | None, divisors: Tensor
    ) -> Tensor:
        levels, level_labels, level_quality = self._levels(batch.logits, labels, quality)
        if self.cls_loss.own_normalizer:
            divisors = torch.ones_like(divisors[:1])
        if self.reweighting is None and len(divisors) == 1:
            scale = 1.0 if self.cls_loss.own_normalizer else 1 / divisors[0]
            return self.cls_loss.of_levels(levels, level_labels, quality=level_quality, scale=scale)
        loss = self._loss_per_anchor(levels, level_labels, level_quality)
        self.cls_loss.observe_levels(levels, level_labels)
        if self.reweighting is not None:
            loss = loss * self._cls_weights(self.reweighting, batch, labels, loss.detach())
        return (loss.sum(dim=1) / divisors).sum()

    @torch.no_grad()
    def _weights_before(
        self, batch: DenseBatch, labels: Tensor, quality: Tensor | None
    ) -> Tensor | None:
        """Return the weights of the classification losses before any state changes, (N, R)."""
        if self.reweighting is None:
            return None
        loss = self._loss_per_anchor(*self._levels(batch.logits, labels, quality))
        return self._cls_weights(self.reweighting, batch, labels, loss)

    @torch.no_grad()
    def _cls_weights(
        self, reweighting: ISRPReweighting, batch: DenseBatch, labels: Tensor, loss: Tensor
    ) -> Tensor:
        """Return the weight of the classification loss of each anchor, (N, R)."""
        if batch.targets.objects is None:
            raise ValueError(
                "MODEL.FOCAL.REWEIGHT requires an assigner that names the object of each positive"
            )
        num_classes = batch.logits[0].shape[-1] - self.cls_loss.softmax
        positives = (labels >= 0) & (labels != num_classes)
        iou = self._iou(batch, positives)
        iou = torch.zeros_like(positives, dtype=iou.dtype).masked_scatter(positives, iou)
        objects = objects_of_batch(batch.targets.objects)
        return reweighting(labels, objects, iou, loss, num_classes=num_classes)

    def _loss_per_anchor(
        self, logits: list[Tensor], labels: list[Tensor], quality: list[Tensor] | None
    ) -> Tensor:
        """Return the loss of each anchor, (N, R), from the result of :meth:`_levels`."""
        loss = self.cls_loss.per_anchor_of_levels(logits, labels, quality=quality)
        return cat([x.flatten(1) for x in loss], dim=1)

    def _levels(
        self, logits: list[Tensor], labels: Tensor, quality: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor] | None]:
        """Split by level if the loss allows it, which avoids a copy of all logits."""
        if not (self.cls_loss.decomposes or self.cls_loss.any_layout):
            return [cat(logits, dim=1)], [labels], None if quality is None else [quality]
        of_levels = None if quality is None else split_levels(quality, logits)
        return logits, split_levels(labels, logits), of_levels

    def _both_losses(
        self, batch: DenseBatch, labels: Tensor, boxed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute both losses together, for a classification loss that weighs the box losses."""
        per_box = self.box_loss.per_box(*self._box_pairs(batch, boxed))
        box_loss = torch.zeros_like(boxed, dtype=per_box.dtype).masked_scatter(boxed, per_box)
        levels, level_labels, level_box_loss = self._levels(batch.logits, labels, box_loss)
        assert level_box_loss is not None
        return self.cls_loss.of_both(levels, level_labels, box_loss=level_box_loss)

    def _box_loss(
        self, batch: DenseBatch, positives: Tensor, weights: Tensor | None, divisors: Tensor
    ) -> Tensor:
        pred, target = self._box_pairs(batch, positives)
        if self.box_loss.own_normalizer:
            return self.box_loss(pred, target)
        if weights is None and len(divisors) == 1:
            return self.box_loss(pred, target) / divisors[0]
        loss = self.box_loss.per_box(pred, target)
        if weights is not None:
            loss = loss * weights
        self.box_loss.observe(pred, target)
        divisor_of_box = divisors.unsqueeze(1).expand_as(positives)[positives]  # (V,)
        return (loss / divisor_of_box).sum()

    def _auxiliary_losses(
        self, batch: DenseBatch, boxed: Tensor, weights: Tensor | None, divisors: Tensor
    ) -> dict[str, Tensor]:
        """Compute all losses besides both: of CARL, and of what else the head predicts."""
        carl = self.carl
        losses = {"loss_carl": self._carl_loss(carl, batch, boxed, divisors)} if carl else {}
        if batch.box_outputs is None:
            return losses
        image, anchor = boxed.nonzero(as_tuple=True)
        boxes = BoxOutputs(
            outputs=rows_of_levels(batch.box_outputs, image, anchor),
            anchors=batch.anchors[anchor],
            gt_boxes=self._gt_boxes(batch, boxed),
            weights=weights,
            divisors=divisors.unsqueeze(1).expand_as(boxed)[boxed],
        )
        assert isinstance(self.head, BoxOutputHead)
        return {**losses, **self.head.auxiliary_losses(boxes)}

    def _carl_loss(
        self, carl: CARLTerm, batch: DenseBatch, boxed: Tensor, divisors: Tensor
    ) -> Tensor:
        """Compute the box term that trains the scores, divided like the box loss."""
        logits = rows_of_levels(batch.logits, *boxed.nonzero(as_tuple=True))
        loss = self.box_loss.per_box(*self._box_pairs(batch, boxed))
        if not self.box_loss.own_normalizer:
            loss = loss / divisors.unsqueeze(1).expand_as(boxed)[boxed]
        classes = batch.targets.labels[boxed]
        return carl(self.cls_loss.probabilities(logits.float()), classes, loss)

    @torch.no_grad()
    def _box_weights(self, batch: DenseBatch, boxed: Tensor) -> Tensor | None:
        """Return the weight of each box, float32 (V,), or None for 1 each."""
        if not self.box_weighted_by:
            return None
        if self.box_weighted_by == "target":
            weight = batch.targets.weight
            return None if weight is None else weight[boxed]
        if self.box_weighted_by == "iou":
            return self._iou(batch, boxed)
        if self.box_weighted_by == "centerness":
            anchors = batch.anchors[boxed.nonzero(as_tuple=True)[1]]
            return centerness_of(anchors, self._gt_boxes(batch, boxed))
        logits = rows_of_levels(batch.logits, *boxed.nonzero(as_tuple=True))
        return scores_of(self.cls_loss, logits)

    def _box_pairs(self, batch: DenseBatch, positives: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions and targets of the positives, (V, 4): deltas, or boxes if required."""
        image, anchor = positives.nonzero(as_tuple=True)
        deltas = rows_of_levels(batch.deltas, image, anchor)
        anchors = batch.anchors[anchor]
        gt_boxes = self._gt_boxes(batch, positives)
        if self.box_loss.on_boxes:
            return self.box2box_transform.apply_deltas(deltas, anchors), gt_boxes
        return deltas, self.box2box_transform.get_deltas(anchors, gt_boxes)

    @torch.no_grad()
    def _quality(self, batch: DenseBatch, positives: Tensor) -> Tensor:
        """Return (N, R), the quality of each positive, else 0."""
        if batch.targets.quality is not None:
            return batch.targets.quality * positives
        iou = self._iou(batch, positives)
        return torch.zeros_like(positives, dtype=iou.dtype).masked_scatter(positives, iou)

    @torch.no_grad()
    def _iou(self, batch: DenseBatch, positives: Tensor) -> Tensor:
        """Return the IoU of the decoded box of each positive with its object, (V,)."""
        boxes = self._decode(batch, *positives.nonzero(as_tuple=True))
        return elementwise_iou(boxes, self._gt_boxes(batch, positives))

    @staticmethod
    def _gt_boxes(batch: DenseBatch, positives: Tensor) -> Tensor:
        """Return the box of each positive's object, (V, 4)."""
        of_images = zip(batch.targets.gt_boxes, positives, strict=True)
        return torch.cat([boxes[mask] for boxes, mask in of_images])

    @torch.no_grad()
    def _mine(
        self, miner: Miner, batch: DenseBatch, positives: Tensor, quality: Tensor | None
    ) -> Tensor:
        """Return the mask of the anchors that the miner keeps, (N, R)."""
        rank = self._loss_per_anchor(*self._levels(batch.logits, batch.targets.labels, quality))
        if miner.rank_by == "cls_and_box":
            rank[positives] += self.box_loss.per_box(*self._box_pairs(batch, positives))

        def boxes(image: int | Tensor, anchor: Tensor) -> Tensor:
            if miner.nms_boxes == "anchors":
                return batch.anchors[anchor]
            images = image if isinstance(image, Tensor) else torch.full_like(anchor, image)
            return self._decode(batch, images, anchor)

        return miner(rank, batch.targets.labels, boxes)

    def _decode(self, batch: DenseBatch, image: Tensor, anchor: Tensor) -> Tensor:
        """Return the predicted boxes of some anchors, (V, 4); both indices are (V,)."""
        deltas = rows_of_levels(batch.deltas, image, anchor)
        return self.box2box_transform.apply_deltas(deltas, batch.anchors[anchor])


def _as_rows(logits: list[Tensor]) -> list[Tensor]:
    """Return (N, Ri, K) tensors, as copies if the logits of an anchor are not adjacent."""
    return [x.flatten(1, -2) for x in logits]


def _with_background(logits: Tensor) -> Tensor:
    """Return (N, ..., K+1): the background's logit, 0, is added in the memory layout."""
    order = Layout.of(logits).order
    after = len(order) - 1 - order.index(len(order) - 1)  # dimensions inside that of the classes
    padded = F.pad(logits.permute(order), (*[0, 0] * after, 0, 1))
    return padded.permute([order.index(i) for i in range(len(order))])
