"""
Which object each anchor belongs to, without the matrix of all pairs.

Shape shorthand:
    N: number of images
    M: number of objects in an image
    R: anchors per image over all levels
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..checks import IllegalOptionError, check_choice
from .implementations import choose, why_no_cpp, why_no_triton

LOW_QUALITY = ("on", "clobber", "off")

PAIRS_PER_CHUNK = 30_000
"""
What the eager implementation computes at once: less than what PyTorch shares between threads, which
costs more than it saves where it is so often, most of all where another process has a core.
"""

ANCHORS_PER_PROGRAM = 512
"""Of a kernel."""

KERNEL_OPTIONS = {"enable_fp_fusion": False}
"""a * b + c would be rounded once where Detectron2 rounds twice."""


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
    Match the anchors of each image with its objects, by IoU. Indices and labels are those that
    Detectron2's matcher gets from its `pairwise_iou`, bit for bit and ties included.

        IoU     = overlap / (area of the object + area of the anchor - overlap), 0 if none
        matched = the object with the largest IoU, the first of those that tie
        label   = labels[how many thresholds the largest IoU reaches]

    After that an anchor becomes 1 (positive) if no other has a larger IoU with some object, ties
    included, that object overlaps any anchor at all, and ``low_quality`` is

        "on"       whatever the anchor's IoU
        "clobber"  and the anchor's own largest IoU reaches the lowest threshold
        "off"      never

    Args:
        gt_boxes: one for each image, (M, 4), XYXY, float32; M may be 0.
        anchors: (R, 4), XYXY, float32, the same for all images.
        thresholds: > 0, ascending, at least one.
        labels: in {-1 (ignored), 0 (background), 1 (positive)}, one more than thresholds.
        low_quality: "on", "clobber" or "off".
        impl: "cpp" (the extension; CPU), "triton" (CUDA), "eager" (PyTorch, in chunks), or "auto",
            the first of these that can be had.

    Returns:
        the index of the object that each anchor belongs to, (N, R), int64, and the anchor's label,
        (N, R), int8; index 0 and the lowest label in an image without objects.

    Raises:
        ValueError: an option, or the shape, type or device of a tensor, is none of these; or
            ``impl`` cannot be had for these tensors, and the message says why.

    Note:
        O(R + M) memory, the same bits for any number of threads, and on a GPU no wait for it. A box
        with a NaN overlaps nothing. So do two boxes whose areas and overlap all exceed float32,
        where Detectron2 has an IoU of NaN and stops.
    """
    _check_boxes(gt_boxes, anchors)
    _check_bands(thresholds, labels)
    rescue_from = {"on": 0.0, "clobber": thresholds[0], "off": math.inf}[
        check_choice("low_quality", low_quality, LOW_QUALITY)
    ]
    match = {"cpp": _match_cpp, "triton": _match_triton, "eager": _match_eager}
    chosen = choose(impl, anchors.device, lambda name: _why_not(name, anchors))
    return match[chosen](list(gt_boxes), anchors, list(thresholds), list(labels), rescue_from)


def _check_boxes(gt_boxes: Sequence[Tensor], anchors: Tensor) -> None:
    for name, boxes in [("anchors", anchors), *(("gt_boxes", boxes) for boxes in gt_boxes)]:
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{name} must be (.., 4), got {tuple(boxes.shape)}")
        if boxes.dtype != torch.float32:
            raise ValueError(f"{name} must be float32, got {boxes.dtype}")
        if boxes.device != anchors.device:
            raise ValueError(f"{name} must be on {anchors.device}, got {boxes.device}")


def _check_bands(thresholds: Sequence[float], labels: Sequence[int]) -> None:
    """A band of IoU begins at each threshold, and one below them all; each has a label."""
    if not thresholds or not thresholds[0] > 0 or list(thresholds) != sorted(thresholds):
        raise IllegalOptionError("thresholds", f"must be > 0 and ascend, got {thresholds}")
    if len(labels) != len(thresholds) + 1 or not set(labels) <= {-1, 0, 1}:
        raise IllegalOptionError(
            "labels", f"must be {len(thresholds) + 1} of -1, 0 and 1, got {labels}"
        )


def _why_not(impl: str, anchors: Tensor) -> str | None:
    """What hinders the implementation; None if nothing does."""
    if impl == "cpp":
        return why_no_cpp(anchors.device)
    return why_no_triton(anchors.device) if impl == "triton" else None


def _match_cpp(
    gt_boxes: list[Tensor],
    anchors: Tensor,
    thresholds: list[float],
    labels: list[int],
    rescue_from: float,
) -> tuple[Tensor, Tensor]:
    """See `csrc/match_anchors.cpp`."""
    matched_idxs, match_labels = torch.ops.focal_plugin.match_anchors(
        gt_boxes, anchors, thresholds, labels, rescue_from
    )
    return matched_idxs, match_labels


# In PyTorch


def _match_eager(
    gt_boxes: list[Tensor],
    anchors: Tensor,
    thresholds: list[float],
    labels: list[int],
    rescue_from: float,
) -> tuple[Tensor, Tensor]:
    """Twice over all pairs, as the first time no object's largest IoU is known until the end."""
    matched_idxs = torch.zeros(
        len(gt_boxes), len(anchors), dtype=torch.int64, device=anchors.device
    )
    best = anchors.new_zeros(matched_idxs.shape)
    is_best = torch.zeros_like(matched_idxs, dtype=torch.bool)
    for n, boxes in enumerate(gt_boxes):
        if not len(boxes):
            continue
        top = boxes.new_zeros(len(boxes), 1)
        from_the_end = torch.arange(len(boxes), 0, -1.0, device=boxes.device).unsqueeze(1)
        for chunk, iou in _ious(boxes, anchors):
            best[n, chunk] = iou.amax(dim=0)
            # The first object that attains it. `iou.max(dim=0)` would call all threads every time
            last = (from_the_end * (iou == best[n, chunk])).amax(dim=0)
            matched_idxs[n, chunk] = len(boxes) - last.long()
            top = torch.maximum(top, iou.amax(dim=1, keepdim=True))
        if rescue_from < math.inf:
            for chunk, iou in _ious(boxes, anchors):
                is_best[n, chunk] = ((iou == top) & (top > 0)).any(dim=0)
    match_labels = torch.full_like(best, labels[0], dtype=torch.int8)
    for threshold, label in zip(thresholds, labels[1:], strict=True):
        match_labels.masked_fill_(best >= threshold, label)
    return matched_idxs, match_labels.masked_fill_(is_best & (best >= rescue_from), 1)


def _ious(boxes: Tensor, anchors: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some anchors after others, and the (M, ..) IoUs of the objects with these."""
    size = max(1, PAIRS_PER_CHUNK // len(boxes))
    x1, y1, x2, y2 = boxes.unsqueeze(2).unbind(dim=1)  # (M, 1)
    area = (x2 - x1) * (y2 - y1)
    for start in range(0, len(anchors), size):
        chunk = slice(start, start + size)
        ax1, ay1, ax2, ay2 = anchors[chunk].unbind(dim=1)
        width = (torch.minimum(x2, ax2) - torch.maximum(x1, ax1)).clamp_(min=0)
        height = (torch.minimum(y2, ay2) - torch.maximum(y1, ay1)).clamp_(min=0)
        overlap = width.mul_(height)
        iou = overlap / (area + (ax2 - ax1) * (ay2 - ay1) - overlap)
        yield chunk, iou.nan_to_num_(nan=0.0)  # 0 / 0, or a box with a NaN


# In Triton


def _match_triton(
    gt_boxes: list[Tensor],
    anchors: Tensor,
    thresholds: list[float],
    labels: list[int],
    rescue_from: float,
) -> tuple[Tensor, Tensor]:
    """All images in one launch a pass; none of it waits for the GPU."""
    anchors = anchors.contiguous()
    shape = len(gt_boxes), len(anchors)
    matched_idxs = torch.zeros(shape, dtype=torch.int64, device=anchors.device)
    match_labels = torch.full(shape, labels[0], dtype=torch.int8, device=anchors.device)
    # An empty box overlaps nothing, so that it can stand in for an object that is not there
    boxes = pad_sequence(gt_boxes, batch_first=True) if gt_boxes else anchors.new_zeros(0, 0, 4)
    num_objects = boxes.shape[1]
    if matched_idxs.numel() == 0 or num_objects == 0:
        return matched_idxs, match_labels

    from . import matching_triton as kernels  # Triton takes its time, and may be absent

    num_blocks = -(-len(anchors) // ANCHORS_PER_PROGRAM)
    grid = num_blocks, len(gt_boxes)
    tops = anchors.new_empty(len(gt_boxes), num_blocks, num_objects)
    options = {"BLOCK": ANCHORS_PER_PROGRAM, **KERNEL_OPTIONS}
    arguments = boxes, anchors, matched_idxs, match_labels, tops, num_objects, len(anchors)
    with torch.cuda.device_of(anchors):
        bands = tuple(map(float, thresholds)), tuple(labels)
        kernels.match_kernel[grid](*arguments, *bands, **options)
        if rescue_from < math.inf:
            kernels.rescue_kernel[grid](*arguments, tops.amax(dim=1), float(rescue_from), **options)
    return matched_idxs, match_labels
