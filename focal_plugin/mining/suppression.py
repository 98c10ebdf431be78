"""
Suppression of anchors by their loss, which stops as soon as a quota is filled.

Shape shorthand:
    N: number of images
    R: anchors per image over all levels
    P: number of pools, whose anchors share a quota: N images, or one batch
    C: anchors of a pool, R or N * R
    V: anchors of each pool that were compared so far, those of highest loss
    B: the next anchors of each pool
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.descending import descending
from ..ops.suppression import suppress
from .inputs import BoxesOf
from .quota import Quota
from .selection import highest, scores_by_loss

FIRST_BLOCK = 4
"""Anchors that are compared first, in multiples of the quota."""

GROWTH = 4
"""Ratio of the anchors in order after a further search for the next ones, to those before it."""

LARGEST_BLOCK = 1 << 14
"""Anchors that are compared at once: on a GPU, all pairs of them and of the survivors are."""


class Anchors(NamedTuple):
    """Anchors of a batch."""

    loss: Tensor  # (N, R), any floating dtype; compared in float32
    labels: Tensor  # (N, R), integer; -1 for ignored anchors, which neither survive nor suppress
    positives: Tensor  # (N, R), bool
    boxes: BoxesOf


@dataclass(frozen=True)
class Suppression:
    """
    Greedy suppression within each image, with the loss as score.

    Attributes:
        nms_thresh: IoU above which the anchor of lower loss is suppressed, in [0, 1].
        pre_nms_topk: number of anchors of highest loss in each image that enter; no other survives.
            0: all enter.
        nms_per_label: if True, only an anchor of the same label suppresses; background is one
            label.
    """

    nms_thresh: float
    pre_nms_topk: int
    nms_per_label: bool

    def survivors(self, anchors: Anchors, quota: Quota | None, *, per_batch: bool) -> Tensor:
        """
        Select the survivors of highest loss, at least as many as the quota needs.

        Args:
            anchors: the anchors of all images. Only the boxes that are compared are requested.
            quota: the quota of each image, or of the batch. None: all survivors are needed.
            per_batch: whether the quota is that of the batch.

        Returns:
            bool (N, R). All other survivors come after them, by the order in
            :mod:`~focal_plugin.mining.selection`.
        """
        entering = anchors.labels != -1
        if self.pre_nms_topk:
            for loss, of_image in zip(anchors.loss, entering, strict=True):
                of_image.copy_(highest(loss, of_image, self.pre_nms_topk))
        contest = _Contest(anchors, entering, self, per_batch=per_batch)
        scores = scores_by_loss(anchors.loss).masked_fill_(~entering, -torch.inf)
        scores = scores.reshape(contest.entering.shape)
        first = scores.shape[1] if quota is None else FIRST_BLOCK * quota.num_keep
        for block in _blocks(scores, max(first, 1)):
            contest.add(block)
            if quota is not None and contest.is_decided(quota):
                break
        return contest.mask().view_as(entering)


class _Contest:
    """Comparison of the anchors of each pool with those of higher loss, block by block."""

    def __init__(
        self, anchors: Anchors, entering: Tensor, options: Suppression, *, per_batch: bool
    ) -> None:
        pools = (1, entering.numel()) if per_batch else entering.shape
        self.anchors, self.options = anchors, options
        self.entering = entering.reshape(pools)  # (P, C)
        self.positives = self.entering & anchors.positives.reshape(pools)
        self.num_pos = self.positives.sum(dim=1)
        self.order = torch.zeros(len(self.entering), 0, dtype=torch.int64, device=entering.device)
        self.boxes = torch.zeros(*self.order.shape, 4, device=entering.device)
        self.groups = self.order  # (P, V), int64
        self.survives = self.order.bool()
        self.is_open = torch.ones_like(self.entering[:, :1])  # (P, 1), False once it is decided

    def add(self, block: Tensor) -> None:
        """Compare the anchors at indices (P, B), in the order of their loss."""
        num_images, num_anchors = self.anchors.labels.shape
        first = torch.arange(len(block), device=block.device) * self.entering.shape[1]
        at = block + first.unsqueeze(1)  # index into the anchors of the batch
        image, anchor = at // num_anchors, at % num_anchors
        groups = image
        if self.options.nms_per_label:
            groups = image + num_images * self.anchors.labels.flatten()[at]
        competing = self.entering.gather(1, block) & self.is_open
        boxes = self.boxes.new_zeros(*block.shape, 4)
        boxes[competing] = self.anchors.boxes(image[competing], anchor[competing]).float()
        self.order = torch.cat([self.order, block], dim=1)
        self.boxes = torch.cat([self.boxes, boxes], dim=1)
        self.groups = torch.cat([self.groups, groups], dim=1)
        self.survives = suppress(
            self.boxes,
            self.groups,
            torch.cat([self.survives, competing], dim=1),
            threshold=self.options.nms_thresh,
        )

    def is_decided(self, quota: Quota) -> bool:
        """Return whether no pool needs a further survivor."""
        positives = self.positives.gather(1, self.order)
        survivors, num_pos = self.survives.sum(dim=1), (self.survives & positives).sum(dim=1)
        positives_left = self.num_pos - positives.sum(dim=1)
        # The candidates come first
        is_last = ~self.entering.gather(1, self.order[:, -1:]).squeeze(1)
        counts = torch.stack([num_pos, survivors - num_pos, positives_left, is_last], dim=1)
        is_open = [
            not (is_last or quota.is_filled(pos, neg, positives_left=left))
            for pos, neg, left, is_last in counts.tolist()
        ]
        self.is_open = torch.tensor(is_open, device=self.order.device).unsqueeze(1)
        return not any(is_open)

    def mask(self) -> Tensor:
        """Return the survivors, bool (P, C)."""
        return torch.zeros_like(self.entering).scatter_(1, self.order, self.survives)


def _blocks(scores: Tensor, first: int) -> Iterator[Tensor]:
    """Yield the indices of all scores of each row, the largest first, some columns at a time."""
    done, count = 0, first
    while done < scores.shape[1]:
        order = descending(scores, count)
        yield from order[:, done:].split(min(max(done, first), LARGEST_BLOCK), dim=1)
        done, count = order.shape[1], GROWTH * count
