"""Scenes of anchors, predictions and objects, and geometry in plain Python."""

import json
import math
from pathlib import Path

import torch

CASES = json.loads((Path(__file__).parent / "cases.json").read_text())
"""Inputs and results of the rules, by the name of the rule."""


def anchor_levels(strides=(8, 16, 32), size=64, ratios=(1.0,), dtype=torch.float64):
    """Return the anchors of an image with a square size, one tensor for each level."""
    levels = []
    for stride in strides:
        side = torch.arange(0, size, stride, dtype=dtype)
        y, x = torch.meshgrid(side, side, indexing="ij")
        center = torch.stack([x, y], dim=2).view(-1, 1, 2)
        half = torch.tensor([[stride * 2.0 * r, stride * 2.0 / r] for r in ratios], dtype=dtype)
        levels.append(torch.cat([center - half, center + half], dim=2).view(-1, 4))
    return levels


def random_objects(generator, count, *, size=64, on_grid=False, dtype=torch.float64):
    """Return boxes (M, 4). Those on the grid have many equal distances and IoUs."""
    corner = torch.rand(count, 2, generator=generator, dtype=dtype) * size * 0.8 - size * 0.05
    side = 4 + torch.rand(count, 2, generator=generator, dtype=dtype) * size * 0.5
    if on_grid:
        corner, side = (corner / 4).round() * 4, (side / 8).ceil() * 8
    return torch.cat([corner, corner + side], dim=1)


def random_predictions(generator, anchors, num_classes):
    """Return logits (R, K), and boxes (R, 4) near the anchors."""
    logits = torch.randn(len(anchors), num_classes, generator=generator, dtype=anchors.dtype) * 2
    boxes = anchors + torch.randn(anchors.shape, generator=generator, dtype=anchors.dtype)
    return logits, boxes


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union else 0.0


def center(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def depth(point, box):
    return min(point[0] - box[0], point[1] - box[1], box[2] - point[0], box[3] - point[1])


def probability(logit):
    return 1 / (1 + math.exp(-logit))
