"""
Matching of anchors with objects by IoU, without the matrix of all pairs.

Shape shorthand:
    N: number of images
    M: number of objects in an image
    R: anchors per image over all levels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..checks import IllegalOptionError, check_choice
from . import match_anchors_cpp, match_anchors_eager, match_anchors_triton
from .implementations import choose


class _Implementation(Protocol):
    """Interface of an implementation's module."""

    def why_not(self, anchors: Tensor) -> str | None: ...

    def match(
        self,
        gt_boxes: list[Tensor],
        anchors: Tensor,
        thresholds: list[float],
        labels: list[int],
        rescue_from: float,
    ) -> tuple[Tensor, Tensor]: ...


MODULES: dict[str, _Implementation] = {
    "cpp": match_anchors_cpp,
    "triton": match_anchors_triton,
    "eager": match_anchors_eager,
}

LOW_QUALITY = ("on", "clobber", "off")


@torch.no_grad()
def match_anchors(
    gt_boxes: Sequence[Tensor],
    anchors: Tensor,
    *,
    thresholds: Sequence[float],
    labels: Sequence[int],
    low_quality: str = "on",
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """
    Match the anchors of each image with its objects, by IoU.

    Indices and labels are those of Detectron2's matcher on its `pairwise_iou`, bit for bit, ties
    included.

        IoU     = overlap / (area of the object + area of the anchor - overlap), 0 if none
        matched = the object with the largest IoU, the first in a tie
        label   = labels[number of thresholds that the largest IoU reaches]

    Then an anchor becomes 1 (positive) if no other anchor has a larger IoU with some object, ties
    included. The object must overlap at least one anchor, and ``low_quality`` must allow it:

        "on"       for any IoU of the anchor
        "clobber"  if the anchor's own largest IoU reaches the lowest threshold
        "off"      never

    Args:
        gt_boxes: one tensor per image, (M, 4), XYXY, float32; M may be 0.
        anchors: (R, 4), XYXY, float32, the same for all images.
        thresholds: > 0, ascending, at least one.
        labels: in {-1 (ignored), 0 (background), 1 (positive)}, one more than thresholds.
        low_quality: "on", "clobber" or "off".
        impl: "cpp" (the extension; CPU), "triton" (CUDA), "eager" (PyTorch, in chunks), or "auto",
            the first of these that is available.

    Returns:
        the index of each anchor's object, (N, R), int64, and the anchor's label, (N, R), int8.
        Index and label are 0 and the lowest label in an image without objects.

    Raises:
        ValueError: an option, or the shape, dtype or device of a tensor, is not legal; or ``impl``
            is not available for these tensors, and the message gives the reason.

    Note:
        It uses O(R + M) memory and returns the same bits for any number of threads. On a GPU it
        does not synchronize. A box with a NaN has no overlap. Neither do two boxes whose areas and
        overlap all exceed float32; there Detectron2 has an IoU of NaN and stops.
    """
    _check_boxes(gt_boxes, anchors)
    _check_bands(thresholds, labels)
    rescue_from = {"on": 0.0, "clobber": thresholds[0], "off": math.inf}[
        check_choice("low_quality", low_quality, LOW_QUALITY)
    ]
    chosen = choose(impl, anchors.device, lambda name: MODULES[name].why_not(anchors))
    match = MODULES[chosen].match
    return match(list(gt_boxes), anchors, list(thresholds), list(labels), rescue_from)


def _check_boxes(gt_boxes: Sequence[Tensor], anchors: Tensor) -> None:
    for name, boxes in [("anchors", anchors), *(("gt_boxes", boxes) for boxes in gt_boxes)]:
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{name} must be (.., 4), got {tuple(boxes.shape)}")
        if boxes.dtype != torch.float32:
            raise ValueError(f"{name} must be float32, got {boxes.dtype}")
        if boxes.device != anchors.device:
            raise ValueError(f"{name} must be on {anchors.device}, got {boxes.device}")


def _check_bands(thresholds: Sequence[float], labels: Sequence[int]) -> None:
    """Check that each band of IoU has a label. A band begins at each threshold, and below all."""
    if not thresholds or not thresholds[0] > 0 or list(thresholds) != sorted(thresholds):
        raise IllegalOptionError("thresholds", f"must be > 0 and ascending, got {thresholds}")
    if len(labels) != len(thresholds) + 1 or not set(labels) <= {-1, 0, 1}:
        raise IllegalOptionError(
            "labels", f"must be {len(thresholds) + 1} of -1, 0 and 1, got {labels}"
        )
