# ruff: noqa: ANN001, ANN201, ANN202 - Triton interprets annotations itself
"""
Triton kernels of :mod:`~focal_plugin.ops.match_anchors_triton`, one for each of its two passes.

A program computes some anchors of one image. The first call imports this file, because Triton may
not be installed.
"""

import triton
import triton.language as tl


@triton.jit
def _iou_of(box, x1, y1, x2, y2, area):
    """Compute the IoU with the object, or the objects, whose coordinates are at ``box``."""
    object_x1 = tl.load(box)
    object_y1 = tl.load(box + 1)
    object_x2 = tl.load(box + 2)
    object_y2 = tl.load(box + 3)
    object_area = (object_x2 - object_x1) * (object_y2 - object_y1)
    width = tl.maximum(tl.minimum(object_x2, x2) - tl.maximum(object_x1, x1), 0.0)
    height = tl.maximum(tl.minimum(object_y2, y2) - tl.maximum(object_y1, y1), 0.0)
    overlap = width * height
    # `/` need not round to nearest on a GPU, but Detectron2's division does
    iou = tl.div_rn(overlap, object_area + area - overlap)
    return tl.where(iou > 0, iou, 0.0)  # neither 0 / 0 nor a NaN is above 0


@triton.jit
def _load(anchors, num_anchors, BLOCK: tl.constexpr):
    """Load the anchors of this program, padded with empty boxes."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_anchors
    x1 = tl.load(anchors + 4 * rows, mask=inside, other=0.0)
    y1 = tl.load(anchors + 4 * rows + 1, mask=inside, other=0.0)
    x2 = tl.load(anchors + 4 * rows + 2, mask=inside, other=0.0)
    y2 = tl.load(anchors + 4 * rows + 3, mask=inside, other=0.0)
    return rows, inside, x1, y1, x2, y2, (x2 - x1) * (y2 - y1)


@triton.jit(do_not_specialize=["num_objects", "num_anchors"])
def match_kernel(
    boxes,  # (N, M, 4)
    anchors,  # (R, 4)
    matched_idxs,  # (N, R)
    match_labels,  # (N, R)
    tops,  # (N, programs, M), the largest IoU of each object with the anchors of a program
    num_objects,
    num_anchors,
    thresholds: tl.constexpr,
    labels: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute each anchor's object and label, and the largest IoU of each object here (pass 1)."""
    rows, inside, x1, y1, x2, y2, area = _load(anchors, num_anchors, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    box = boxes + image * num_objects * 4
    top = tops + (image * tl.num_programs(0) + tl.program_id(0)) * num_objects
    best = tl.zeros((BLOCK,), tl.float32)
    matched = tl.zeros((BLOCK,), tl.int64)
    m = 0
    while m < num_objects:  # Triton's interpreter has no range() over an argument with NumPy 2.4
        iou = _iou_of(box + 4 * m, x1, y1, x2, y2, area)
        matched = tl.where(iou > best, m, matched)
        best = tl.maximum(iou, best)
        tl.store(top + m, tl.max(iou, axis=0))
        m += 1
    label = tl.full((BLOCK,), labels[0], tl.int8)
    for t in tl.static_range(len(thresholds)):
        label = tl.where(best >= thresholds[t], labels[t + 1], label).to(tl.int8)
    tl.store(matched_idxs + image * num_anchors + rows, matched, mask=inside)
    tl.store(match_labels + image * num_anchors + rows, label, mask=inside)


@triton.jit(do_not_specialize=["num_objects", "num_anchors", "rescue_from"])
def rescue_kernel(
    boxes,  # (N, M, 4)
    anchors,  # (R, 4)
    matched_idxs,  # (N, R)
    match_labels,  # (N, R)
    tops,  # (N, programs, M)
    num_objects,
    num_anchors,
    best,  # (N, M), the largest IoU of each object
    rescue_from,
    BLOCK: tl.constexpr,
):
    """Make the best anchors of an object positive if their IoU reaches ``rescue_from`` (pass 2)."""
    rows, inside, x1, y1, x2, y2, area = _load(anchors, num_anchors, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    box = boxes + image * num_objects * 4
    top = tops + (image * tl.num_programs(0) + tl.program_id(0)) * num_objects
    is_best = rows < 0
    m = 0
    while m < num_objects:
        best_iou = tl.load(best + image * num_objects + m)
        if (best_iou > 0) & (tl.load(top + m) == best_iou):
            is_best |= _iou_of(box + 4 * m, x1, y1, x2, y2, area) == best_iou
        m += 1
    matched = tl.load(matched_idxs + image * num_anchors + rows, mask=inside, other=0)
    own_iou = _iou_of(box + 4 * matched, x1, y1, x2, y2, area)
    is_rescued = inside & is_best & (own_iou >= rescue_from)
    tl.store(match_labels + image * num_anchors + rows, is_best.to(tl.int8), mask=is_rescued)
