"""
Detectors from one image to tensors, in forms that PyTorch can trace or script.

Shape shorthand:
    C, H, W: channels, height and width of an image
    D: number of detections
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_two_stage(model: nn.Module) -> bool:
    """Return True for a detector with proposals, whose method `inference` leaves masks alone."""
    return hasattr(model, "roi_heads")


def visible(
    boxes: Tensor, scores: Tensor, classes: Tensor, image: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Clip boxes to their image and drop the empty ones, as Detectron2 does after a detector.

    Args:
        boxes: (D, 4) x0, y0, x1, y1.
        scores, classes: (D,).
        image: (C, H, W).
    """
    height, width = image.shape[-2], image.shape[-1]
    x0, x1 = boxes[:, 0].clamp(min=0, max=width), boxes[:, 2].clamp(min=0, max=width)
    y0, y1 = boxes[:, 1].clamp(min=0, max=height), boxes[:, 3].clamp(min=0, max=height)
    keep = (x1 > x0) & (y1 > y0)
    return torch.stack([x0, y0, x1, y1], dim=1)[keep], scores[keep], classes[keep]


class TraceableDetector(nn.Module):
    """Detector from an image (C, H, W) to boxes (D, 4), scores (D,) and classes (D,)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if is_two_stage(self.model):
            found = self.model.inference(  # type: ignore[operator]
                [{"image": image}], do_postprocess=False
            )[0]
        else:
            found = self.model([{"image": image}])[0]["instances"]
        return visible(found.pred_boxes.tensor, found.scores, found.pred_classes, image)


class ScriptableRetinaNet(nn.Module):
    """Variant of :class:`TraceableDetector` for a script of a one-stage detector."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.model([{"image": image}])[0]  # a script returns the instances themselves
        return visible(found.pred_boxes.tensor, found.scores, found.pred_classes, image)


class ScriptableRCNN(nn.Module):
    """Variant of :class:`TraceableDetector` for a script of a two-stage detector."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.model.inference(  # type: ignore[operator]
            [{"image": image}], do_postprocess=False
        )[0]
        return visible(found.pred_boxes.tensor, found.scores, found.pred_classes, image)
