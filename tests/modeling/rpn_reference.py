"""
Reference RPN losses and anchor labels of three code bases, written from their rules only.

They use float64, one anchor and one object at a time where speed allows it. Nothing here is
imported from the package. A label is -1 (ignored), 0 (background) or 1 (object).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

TENSORPACK_DELTA = 1 / 9
MATTERPORT_STD = (0.1, 0.1, 0.2, 0.2)


class Case(NamedTuple):
    """Output of an RPN's head for a batch, and its ground truth."""

    anchors: list[Tensor]  # one per level, (Ri, 4)
    logits: list[Tensor]  # one per level, (N, Ri)
    deltas: list[Tensor]  # one per level, (N, Ri, 4)
    labels: Tensor  # (N, R)
    gt_boxes: Tensor  # (N, R, 4)


def encode(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return (..., 4): shift of the center over the anchor's size, and log ratio of the sizes."""
    anchors, boxes = anchors.double(), boxes.double()
    size, box_size = anchors[..., 2:] - anchors[..., :2], boxes[..., 2:] - boxes[..., :2]
    shift = (boxes[..., 2:] + boxes[..., :2] - anchors[..., 2:] - anchors[..., :2]) / 2
    return torch.cat([shift / size, (box_size / size).log()], dim=-1)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute it elementwise, as in TensorFlow."""
    return logits.clamp(min=0) - logits * targets + torch.log1p(torch.exp(-logits.abs()))


def huber(errors: Tensor, delta: float) -> Tensor:
    """Compute it elementwise, as in TensorFlow."""
    quadratic = errors.abs().clamp(max=delta)
    return quadratic**2 / 2 + delta * (errors.abs() - quadratic)


def smooth_l1(errors: Tensor, beta: float) -> Tensor:
    """Compute it elementwise."""
    size = errors.abs()
    if beta == 0:
        return size
    return torch.where(size < beta, size**2 / (2 * beta), size - beta / 2)


def tensorpack_losses(case: Case, *, batch_per_image: int) -> tuple[Tensor, Tensor]:
    """
    Compute the losses of each image separately, and average them over the images.

    At each level it divides the sum over the anchors by the constant, and then adds the levels. The
    original trainer has one image per process and averages over processes.
    """
    first = 0
    cls_terms, box_terms = [], []
    num_images = len(case.labels)
    for anchors, logits, deltas in zip(case.anchors, case.logits, case.deltas, strict=True):
        level = slice(first, first + len(anchors))
        first += len(anchors)
        for image in range(num_images):
            labels = case.labels[image, level]
            valid, positive = labels != -1, labels == 1
            bce = binary_cross_entropy(logits[image].double()[valid], labels[valid].double())
            targets = encode(anchors[positive], case.gt_boxes[image, level][positive])
            errors = deltas[image].double()[positive] - targets
            cls_terms.append(bce.sum() / batch_per_image)
            box_terms.append(
                huber(errors, TENSORPACK_DELTA).sum() / TENSORPACK_DELTA / batch_per_image
            )
    return sum(cls_terms) / num_images, sum(box_terms) / num_images


def matterport_losses(case: Case) -> tuple[Tensor, Tensor]:
    """Compute two means over the batch: over counted anchors, and 4 coordinates per positive."""
    logits = torch.cat(case.logits, dim=1).double()
    deltas = torch.cat(case.deltas, dim=1).double()
    anchors = torch.cat(case.anchors).expand_as(case.gt_boxes)
    counted, positive = case.labels != -1, case.labels == 1
    pairs = torch.stack([torch.zeros_like(logits), logits], dim=-1)[counted]  # background, object
    answers = case.labels[counted].long()
    cls = -pairs.log_softmax(dim=-1)[torch.arange(len(answers)), answers]
    targets = encode(anchors[positive], case.gt_boxes[positive]) / torch.tensor(MATTERPORT_STD)
    box = smooth_l1(deltas[positive] - targets, beta=1.0).flatten()
    return tuple(terms.mean() if len(terms) else terms.sum() for terms in (cls, box))


def areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def intersections(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    result = np.zeros((len(boxes), len(others)))
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        for j, (u1, v1, u2, v2) in enumerate(others):
            width, height = min(x2, u2) - max(x1, u1), min(y2, v2) - max(y1, v1)
            result[i, j] = max(width, 0) * max(height, 0)
    return result


def ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    common = intersections(boxes, others)
    return common / (areas(boxes)[:, None] + areas(others)[None] - common)


def tensorpack_labels(anchors, objects, crowds, image_size, *, crowd_thresh):
    """Return labels (R,) before sampling, and the object of each anchor inside the image."""
    height, width = image_size
    labels = np.full(len(anchors), -1)
    matches = np.full(len(anchors), -1)
    inside = [
        i
        for i, (x1, y1, x2, y2) in enumerate(anchors)
        if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height
    ]
    inner = anchors[inside]
    if len(objects) == 0:
        inner_labels = np.zeros(len(inner))
    else:
        overlap = ious(inner, objects)
        inner_labels = np.full(len(inner), -1)
        for column in overlap.T:
            inner_labels[column == column.max()] = 1
        best = overlap.max(axis=1)
        inner_labels[best >= 0.7] = 1
        inner_labels[best < 0.3] = 0
        matches[inside] = overlap.argmax(axis=1)
    if len(crowds):
        shares = intersections(inner, crowds).max(axis=1) / areas(inner)
        inner_labels[(inner_labels >= 0) & (shares > crowd_thresh)] = -1
    labels[inside] = inner_labels
    return labels, matches


def matterport_labels(anchors, objects, crowds, *, crowd_thresh=0.001):
    """Return labels (R,) before sampling, and the object of each anchor."""
    free_of_crowds = np.ones(len(anchors), dtype=bool)
    if len(crowds):
        free_of_crowds = ious(anchors, crowds).max(axis=1) < crowd_thresh
    overlap = ious(anchors, objects)
    best = overlap.max(axis=1)
    labels = np.full(len(anchors), -1)
    labels[(best < 0.3) & free_of_crowds] = 0
    for column in overlap.T:
        labels[column == column.max()] = 1
    labels[best >= 0.7] = 1
    return labels, overlap.argmax(axis=1)


def precision_and_recall(logits, labels, threshold):
    """Count the metrics of one level; None for a denominator of 0."""
    predicted = correct = objects = 0
    for logit, label in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if label == -1:
            continue
        above = 1 / (1 + np.exp(-logit)) > threshold
        predicted += above
        objects += label == 1
        correct += above and label == 1
    return correct / predicted if predicted else None, correct / objects if objects else None
