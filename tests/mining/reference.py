"""Batches of anchors, and a reference implementation of the miners in numpy, anchor by anchor."""

import inspect

import numpy as np
import torch

from focal_plugin import mining
from focal_plugin.mining import MINER_REGISTRY

K = 4
MINER_CLASSES = dict(MINER_REGISTRY)
NAMES = sorted(MINER_CLASSES)
RATIO_NAMES = [name for name in NAMES if "neg_pos_ratio" in MINER_CLASSES[name].config_keys]
FUNCTIONS = {
    "OHEMMiner": mining.ohem_keep_mask,
    "OHEMRatioMiner": mining.ohem_keep_mask,
    "SSDMiner": mining.ssd_keep_mask,
    "TopKMiner": mining.top_k_keep_mask,
}


def random_batch(num_images=3, num_anchors=120, seed=0, ties=False):
    """
    Return loss (N, R), labels (N, R) of every kind, and boxes (N, R, 4).

    The boxes overlap a lot and have negative coordinates, like anchors. With ties there are only
    six different losses.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, num_anchors)
    loss = torch.rand(shape, generator=generator)
    if ties:
        loss = (loss * 6).floor()
    labels = torch.randint(-1, 2 * K, shape, generator=generator).clamp(max=K)
    corner = torch.rand(*shape, 2, generator=generator) * 60 - 40
    size = torch.rand(*shape, 2, generator=generator) * 20 + 15
    return loss.masked_fill(labels == -1, 0.0), labels, torch.cat([corner, corner + size], dim=-1)


def mine(name, loss, labels, boxes, **options):
    """Return the mask of the miner of that name."""
    return MINER_CLASSES[name](num_classes=K, **options)(loss, labels, boxes)


def call_function(name, loss, labels, boxes, **options):
    """Call the function of a miner for one image, with the arguments that it accepts."""
    function = FUNCTIONS[name]
    if name == "OHEMRatioMiner":
        options = {"neg_pos_ratio": 3.0, **options}
    parameters = inspect.signature(function).parameters
    if "num_classes" in parameters:
        options = {"num_classes": K, **options}
    return function(loss, labels, *([boxes] if "boxes" in parameters else []), **options)


def reference_mask(
    name,
    loss,
    labels,
    boxes,
    *,
    num_keep=128,
    scope="image",
    nms_thresh=0.5,
    pre_nms_topk=0,
    nms_per_label=False,
    neg_pos_ratio=3.0,
    empty_image_negatives=3,
):
    """Return the expected mask, from loops over sorted lists of (image, anchor)."""
    loss, labels = loss.numpy(), labels.numpy()
    eligible = [
        [(n, r) for r in by_loss(loss[n]) if labels[n, r] != -1] for n in range(len(labels))
    ]
    if name.startswith("OHEM"):
        eligible = [
            nms(image[: pre_nms_topk or None], labels, boxes.numpy(), nms_thresh, nms_per_label)
            for image in eligible
        ]
    times = 1
    if scope == "batch":
        times = len(labels)
        together = [anchor for image in eligible for anchor in image]
        eligible = [sorted(together, key=lambda anchor: (-loss[anchor], anchor))]
    keep = np.zeros(labels.shape, dtype=bool)
    for group in eligible:
        chosen = group[: num_keep * times]
        if name in RATIO_NAMES:
            positives = [anchor for anchor in group if labels[anchor] < K]
            negatives = [anchor for anchor in group if labels[anchor] == K]
            if name == "OHEMRatioMiner":
                positives = positives[: int(num_keep * times // (1 + neg_pos_ratio))]
            quota = int(neg_pos_ratio * len(positives))
            if not positives:
                quota = empty_image_negatives * times
            chosen = positives + negatives[:quota]
        for anchor in chosen:
            keep[anchor] = True
    return torch.from_numpy(keep)


def by_loss(loss):
    return sorted(range(len(loss)), key=lambda r: (-loss[r], r))


def nms(ordered, labels, boxes, thresh, per_label):
    kept = []
    for anchor in ordered:
        rivals = [k for k in kept if not per_label or labels[k] == labels[anchor]]
        if not any(iou(boxes[anchor], boxes[rival]) > thresh for rival in rivals):
            kept.append(anchor)
    return kept


def iou(a, b):
    """Return the IoU of two boxes XYXY, in float64; NaN if neither has an area."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inter / (area - inter) if area else np.nan
