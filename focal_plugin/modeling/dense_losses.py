"""
The two losses of a detector that says something of every anchor: from what its head says, and what
is true, through the parts that were injected.

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

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from detectron2.layers import cat
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes
from torch import Tensor
from torch.nn import functional as F

from ..losses import BoxLoss, ClassificationLoss, elementwise_iou
from ..mining import Miner
from .normalizer import Normalizer


class DenseBatch(NamedTuple):
    """What the head says of all anchors of a batch, where it wrote it, and what is true of them."""

    anchors: Tensor  # (R, 4), XYXY
    logits: list[Tensor]  # one for each level, (N, ..., K), or K+1 for a softmax loss
    deltas: list[Tensor]  # one for each level, (N, ..., 4)
    labels: Tensor  # (N, R), int64 in {-1 (ignored), 0..K-1, K (background)}
    gt_boxes: list[Tensor]  # one for each image, (R, 4), XYXY, of use where the label is 0..K-1


class DenseStep(NamedTuple):
    """What both losses of a batch are about to be computed from; no state has moved yet."""

    anchors: Tensor  # (R, 4), XYXY
    logits: list[Tensor]  # one for each level, (N, Ri, K), or K+1 for a softmax loss
    labels: Tensor  # (N, R), int64 in {-1 (ignored), 0..K-1, K (background)}
    kept_labels: Tensor  # (N, R), the same, but -1 also where mining keeps nothing
    quality: Tensor | None  # (N, R), IoU; None if the loss has no use for it
    cls_divisors: Tensor  # (N,), or (1,) for all images; of no meaning if the loss is normalized
    boxed: Tensor  # (N, R), bool, the anchors of the box loss
    box_pairs: tuple[Tensor, Tensor]  # (V, 4) each, prediction and target of those
    box_divisors: Tensor  # as cls_divisors


class DenseResult(NamedTuple):
    """The losses of a batch, and what they were summed over."""

    loss_cls: Tensor  # float32 scalar, divided by the normalizer
    loss_box: Tensor  # float32 scalar, divided by the normalizer
    num_pos: Tensor  # (N,), int64, positive anchors before mining
    labels: Tensor  # (N, R), those of the batch, -1 also where mining keeps nothing


class DenseLosses:
    """
    A mixin for a detector with these parts as attributes, each a module; it holds no state.

    Attributes:
        cls_loss: of all anchors that count.
        box_loss: of the positive anchors.
        normalizer: the divisor of both losses.
        miner: which anchors count; None: every one.
        box2box_transform: between deltas and boxes.
        observer: called with each batch's :class:`DenseStep`, before its losses; None: nobody.
    """

    cls_loss: ClassificationLoss
    box_loss: BoxLoss
    normalizer: Normalizer
    miner: Miner | None
    box2box_transform: Box2BoxTransform
    observer: Callable[[DenseStep], None] | None = None

    def dense_losses(
        self,
        anchors: list[Boxes],
        logits: list[Tensor],
        labels: Tensor,
        deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> DenseResult:
        """
        Both losses of a batch; 0 with a graph where there is nothing to sum.

        Args:
            anchors: one for each level, Ri boxes.
            logits: one for each level, (N, Ri, K), relative to the background's if softmax; or
                (N, Hi, Wi, A, K), the same in the order in which the head wrote it.
            labels: (N, R), int64 in {-1 (ignored), 0..K-1, K (background)}.
            deltas: one for each level, (N, Ri, 4) or (N, Hi, Wi, A, 4).
            gt_boxes: one for each image, (R, 4), XYXY, of use where the label is 0..K-1.
        """
        num_classes = logits[0].shape[-1]
        if not self.cls_loss.any_layout:
            logits = _as_rows(logits)
        if self.cls_loss.softmax:
            logits = [F.pad(x, (0, 1)) for x in logits]
        batch = DenseBatch(
            anchors=Boxes.cat(anchors).tensor,
            logits=logits,
            deltas=deltas,
            labels=labels,
            gt_boxes=gt_boxes,
        )
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
        cls_divisors, box_divisors = self.normalizer.of_both_losses(
            num_pos, num_counted=num_counted, num_boxes=boxed.sum(dim=1)
        )
        if self.miner is not None and self.miner.divide_by == "kept":
            cls_divisors = num_counted.sum().clamp(min=1).float().unsqueeze(0)
        if self.observer is not None:
            self.observer(
                DenseStep(
                    anchors=batch.anchors,
                    logits=_as_rows(batch.logits),
                    labels=batch.labels,
                    kept_labels=labels,
                    quality=quality,
                    cls_divisors=cls_divisors,
                    boxed=boxed,
                    box_pairs=self._box_pairs(batch, boxed),
                    box_divisors=box_divisors,
                )
            )
        return DenseResult(
            loss_cls=self._cls_loss(batch.logits, labels, quality, cls_divisors),
            loss_box=self._box_loss(batch, boxed, box_divisors),
            num_pos=num_pos,
            labels=labels,
        )

    def _cls_loss(
        self, logits: list[Tensor], labels: Tensor, quality: Tensor | None, divisors: Tensor
    ) -> Tensor:
        levels, level_labels, level_quality = self._levels(logits, labels, quality)
        if self.cls_loss.own_normalizer or len(divisors) == 1:
            scale = 1.0 if self.cls_loss.own_normalizer else 1 / divisors[0]
            return self.cls_loss.of_levels(levels, level_labels, quality=level_quality, scale=scale)
        loss = self._loss_per_anchor(levels, level_labels, level_quality).sum(dim=1)
        for level in zip(levels, level_labels, strict=True):
            self.cls_loss.observe(*level)
        return (loss / divisors).sum()

    def _loss_per_anchor(
        self, logits: list[Tensor], labels: list[Tensor], quality: list[Tensor] | None
    ) -> Tensor:
        """(N, R), from what :meth:`_levels` returns."""
        qualities: Sequence[Tensor | None] = quality or [None] * len(logits)
        levels = zip(logits, labels, qualities, strict=True)
        loss = [self.cls_loss.per_anchor(x, y, quality=q).flatten(1) for x, y, q in levels]
        return cat(loss, dim=1)

    def _levels(
        self, logits: list[Tensor], labels: Tensor, quality: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor] | None]:
        """Level by level where the loss allows it, which spares a copy of all logits."""
        if not self.cls_loss.decomposes:
            return [cat(logits, dim=1)], [labels], None if quality is None else [quality]
        sizes = [x[0, ..., 0].numel() for x in logits]

        def split(anchors: Tensor) -> list[Tensor]:
            levels = zip(anchors.split(sizes, dim=1), logits, strict=True)
            return [level.reshape(x.shape[:-1]) for level, x in levels]

        return logits, split(labels), None if quality is None else split(quality)

    def _box_loss(self, batch: DenseBatch, positives: Tensor, divisors: Tensor) -> Tensor:
        pred, target = self._box_pairs(batch, positives)
        if self.box_loss.own_normalizer or len(divisors) == 1:
            loss = self.box_loss(pred, target)
            return loss if self.box_loss.own_normalizer else loss / divisors[0]
        divisor_of_box = divisors.unsqueeze(1).expand_as(positives)[positives]  # (V,)
        loss = (self.box_loss.per_box(pred, target) / divisor_of_box).sum()
        self.box_loss.observe(pred, target)
        return loss

    def _box_pairs(self, batch: DenseBatch, positives: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and target of each positive, (V, 4): deltas, or boxes if the loss says so."""
        image, anchor = positives.nonzero(as_tuple=True)
        deltas = _rows_of_levels(batch.deltas, image, anchor)
        anchors = batch.anchors[anchor]
        gt_boxes = torch.cat(
            [boxes[mask] for boxes, mask in zip(batch.gt_boxes, positives, strict=True)]
        )
        if self.box_loss.on_boxes:
            return self.box2box_transform.apply_deltas(deltas, anchors), gt_boxes
        return deltas, self.box2box_transform.get_deltas(anchors, gt_boxes)

    @torch.no_grad()
    def _quality(self, batch: DenseBatch, positives: Tensor) -> Tensor:
        """(N, R), the IoU of each positive's decoded box with its ground truth; 0 elsewhere."""
        boxes = self._decode(batch, *positives.nonzero(as_tuple=True))
        gt_boxes = [boxes[mask] for boxes, mask in zip(batch.gt_boxes, positives, strict=True)]
        iou = elementwise_iou(boxes, torch.cat(gt_boxes))
        return torch.zeros_like(positives, dtype=iou.dtype).masked_scatter(positives, iou)

    @torch.no_grad()
    def _mine(
        self, miner: Miner, batch: DenseBatch, positives: Tensor, quality: Tensor | None
    ) -> Tensor:
        """(N, R), the anchors that the miner keeps."""
        rank = self._loss_per_anchor(*self._levels(batch.logits, batch.labels, quality))
        if miner.rank_by == "cls_and_box":
            rank[positives] += self.box_loss.per_box(*self._box_pairs(batch, positives))

        def boxes(image: int, anchor: Tensor) -> Tensor:
            if miner.nms_boxes == "anchors":
                return batch.anchors[anchor]
            return self._decode(batch, torch.full_like(anchor, image), anchor)

        return miner(rank, batch.labels, boxes)

    def _decode(self, batch: DenseBatch, image: Tensor, anchor: Tensor) -> Tensor:
        """(V, 4), the predicted boxes of some anchors; both indices are (V,)."""
        deltas = _rows_of_levels(batch.deltas, image, anchor)
        return self.box2box_transform.apply_deltas(deltas, batch.anchors[anchor])


def _as_rows(logits: list[Tensor]) -> list[Tensor]:
    """(N, Ri, K) each; a copy where the logits of an anchor do not lie side by side."""
    return [x.flatten(1, -2) for x in logits]


def _rows_of_levels(levels: list[Tensor], image: Tensor, anchor: Tensor) -> Tensor:
    """
    Some anchors' rows of what the head says of all, without a copy of all.

    Args:
        levels: (N, ..., D) each, D numbers for an anchor, in any layout.
        image, anchor: int64 (V,), in 0..N-1 and 0..R-1.

    Returns:
        (V, D).
    """
    rows = []
    places = []
    first = 0
    for level in levels:
        shape = level.shape[1:-1]
        place = ((anchor >= first) & (anchor < first + shape.numel())).nonzero().squeeze(1)
        within = torch.unravel_index(anchor[place] - first, shape)
        rows.append(level[(image[place], *within)])
        places.append(place)
        first += shape.numel()
    return torch.cat(rows)[torch.cat(places).argsort()]
