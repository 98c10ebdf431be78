"""
Loss at the start of training, anchor by anchor, for mining and for losses that are no plain sum.

Shape shorthand:
    R: anchors of an image
    K: number of classes of the labels
    V: positive anchors of an image
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..losses import elementwise_iou
from ..mining import Miner
from .anchored_set import AnchoredSet
from .excluded_anchors import exclude_anchors, labels_of_image
from .image_terms import ImageTerms
from .matching import match_pairs
from .start_of_training import AnchorTerms, Start, terms_of_anchors, terms_of_labels

IMAGES = 8
"""Images of a sample."""
MOST_LOGITS = 2**27
"""Logits of an image that fit in memory, with their gradients."""


def terms_of_sampled_images(start: Start, data: AnchoredSet) -> ImageTerms | None:
    """
    Return the terms of a random sample of images, each as a batch of its own.

    Returns:
        None if the loss requires all logits of an image, and they do not fit in memory.
    """
    num_images = len(data.table.file_names)
    sample = np.random.default_rng(0).permutation(num_images)[:IMAGES]
    largest = data.grid.num_anchors[sample].sum(axis=1).max(initial=0)
    if not start.cls_loss.decomposes and largest * start.num_classes > MOST_LOGITS:
        return None
    rows = [_terms_of_image(start, data, int(image)) for image in sample]
    return ImageTerms(*(np.array(field) for field in zip(*rows, strict=True)))


def _terms_of_image(start: Start, data: AnchoredSet, image: int) -> tuple[float, ...]:
    labels, anchors, gt_boxes = _dense_labels(start, data, image)
    terms = _terms_of_anchors(start, labels, anchors, gt_boxes)
    positive = (labels >= 0) & (labels < start.num_classes)
    num_pos = int(positive.sum())
    kept = labels >= 0
    if isinstance(start.sampling, Miner):
        rank = terms.loss.float()
        if start.sampling.rank_by == "cls_and_box":
            rank[positive] += _box_losses(start, anchors[positive], gt_boxes)
        kept = _mine(start.sampling, rank, labels, anchors)
    pos, neg = positive & kept, kept & ~positive
    sums = [term[mask].sum().item() for term in terms for mask in (pos, neg)]
    return (*sums, num_pos, int(kept.sum()))


def _dense_labels(start: Start, data: AnchoredSet, image: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return labels (R,) in {-1..K}, anchors (R, 4), and the object of each positive (V, 4)."""
    block = data.block(image, image + 1)
    pairs = data.pairs(block.objects, floor=data.detector.matcher.thresholds[1])
    boxes = data.frame.boxes[block.objects]
    images = data.table.image[block.objects]
    matched = match_pairs(data.detector.matcher, data.grid, boxes, images, pairs)
    matched, _ = exclude_anchors(data, block, matched)
    state = labels_of_image(data, block, matched, image)
    positive = matched.label == 1
    objects = matched.object[positive]
    classes = data.table.classes[block.objects][objects] if start.num_classes > 1 else 0
    labels = np.where(state == -1, -1, start.num_classes)
    labels[matched.anchor[positive]] = classes
    anchors = data.grid.boxes(*data.grid.places(image))
    return tuple(torch.from_numpy(x) for x in (labels, anchors, boxes[objects]))  # type: ignore[return-value]


def _terms_of_anchors(
    start: Start, labels: Tensor, anchors: Tensor, gt_boxes: Tensor
) -> AnchorTerms:
    """Return the terms of all anchors of an image, (R,) each."""
    positive = (labels >= 0) & (labels < start.num_classes)
    iou = elementwise_iou(anchors[positive], gt_boxes)
    if not start.cls_loss.decomposes:
        quality = torch.zeros(labels.shape, dtype=iou.dtype).masked_scatter(positive, iou)
        return terms_of_anchors(start, labels, quality)
    if not start.cls_loss.needs_quality:
        by_label = terms_of_labels(start)
        known = (labels >= 0).double()
        return AnchorTerms(*(term[labels.clamp(min=0)] * known for term in by_label))
    background = torch.tensor([start.num_classes])
    of_positives = terms_of_anchors(start, labels[positive], iou)
    of_background = terms_of_anchors(start, background, torch.zeros(1))
    known = (labels == start.num_classes).double()
    return AnchorTerms(
        *(
            (known * negative).masked_scatter(positive, term)
            for term, negative in zip(of_positives, of_background, strict=True)
        )
    )


def _box_losses(start: Start, anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    """Return the box loss of each positive, (V,), if all deltas are 0."""
    if start.box_loss.on_boxes:
        return start.box_loss.per_box(anchors, gt_boxes)
    target = start.transform.get_deltas(anchors, gt_boxes)
    return start.box_loss.per_box(torch.zeros_like(target), target)


def _mine(miner: Miner, rank: Tensor, labels: Tensor, anchors: Tensor) -> Tensor:
    """Return the mask of the anchors that the miner keeps, (R,), if all deltas are 0."""
    return miner(rank.unsqueeze(0), labels.unsqueeze(0), anchors.unsqueeze(0))[0]
