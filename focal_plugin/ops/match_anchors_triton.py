"""Triton implementation of :mod:`~focal_plugin.ops.match_anchors`, for GPUs."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .implementations import why_no_triton

ANCHORS_PER_PROGRAM = 512
"""Number of anchors in a program of a kernel."""

KERNEL_OPTIONS = {"enable_fp_fusion": False}
"""Options without fused multiply-add, which would round once where Detectron2 rounds twice."""


def why_not(anchors: Tensor) -> str | None:
    """Return the reason why it cannot be used for these anchors, or None."""
    return why_no_triton(anchors.device)


def match(
    gt_boxes: list[Tensor],
    anchors: Tensor,
    thresholds: list[float],
    labels: list[int],
    rescue_from: float,
) -> tuple[Tensor, Tensor]:
    """Match all images with one launch per pass, without synchronization with the GPU."""
    anchors = anchors.contiguous()
    shape = len(gt_boxes), len(anchors)
    matched_idxs = torch.zeros(shape, dtype=torch.int64, device=anchors.device)
    match_labels = torch.full(shape, labels[0], dtype=torch.int8, device=anchors.device)
    # An empty box has no overlap, so it can pad the objects of an image
    boxes = pad_sequence(gt_boxes, batch_first=True) if gt_boxes else anchors.new_zeros(0, 0, 4)
    num_objects = boxes.shape[1]
    if matched_idxs.numel() == 0 or num_objects == 0:
        return matched_idxs, match_labels

    from . import match_anchors_triton_kernel as kernels  # importing Triton is slow

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
