"""Figures of the ceilings: objects that no detector can find with the test keys of the config."""

from __future__ import annotations

from typing import Any

import numpy as np

from .detector import AnchoredDetector
from .neighbors import has_neighbor
from .object_table import ObjectTable
from .summaries import ratio, share


def ceiling_facts(detector: AnchoredDetector, table: ObjectTable) -> dict[str, Any]:
    """Return the figures of the ceilings; an R-CNN has no `topk_candidates`."""
    model = detector.cfg.MODEL
    is_dense = detector.kind == "RetinaNet"
    nms = model.RETINANET.NMS_THRESH_TEST if is_dense else model.ROI_HEADS.NMS_THRESH_TEST
    topk = model.RETINANET.TOPK_CANDIDATES_TEST if is_dense else None
    most = detector.cfg.TEST.DETECTIONS_PER_IMAGE
    objects = np.bincount(table.image[table.is_object], minlength=len(table.file_names))
    near = has_neighbor(table, iou=nms)[table.is_object] if nms > 0 else table.is_object
    return {
        "nms_thresh": nms,
        "nms": share(near),
        "topk_candidates": topk,
        "topk_images": None if topk is None else share(objects > topk),
        "detections_per_image": most,
        "detections_images": share(objects > most),
        "detections_lost": ratio((objects - most).clip(min=0).sum(), objects.sum()),
    }
