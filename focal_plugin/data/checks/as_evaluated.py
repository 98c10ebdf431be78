"""Comparison of a test set with the ground truth that pycocotools counts."""

from __future__ import annotations

import contextlib
import io
from collections import Counter, defaultdict
from typing import Any

from detectron2.config import CfgNode
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..segmentations import kind_of_segmentation
from .annotation_names import about_annotation
from .facts import read_content
from .findings import Findings, Report


def compare_with_evaluation(cfg: CfgNode, report: Report) -> Report:
    """
    Add the objects of a test set that the evaluation would not count, and missing masks.

    pycocotools itself matches the objects with no detections, and tells which of them it ignores.

    Args:
        report: of a registered dataset, without errors. Without a COCO JSON, it does not change.
    """
    counts = None if report.file is None else read_content(report.file).counts
    if counts is None:
        return report
    found = Findings()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(report.file))
    if cfg.MODEL.MASK_ON:
        _check_masks(truth, found)
    counted: Counter[Any] = Counter()
    try:
        for annotation, is_ignored in _evaluated(truth):
            if not is_ignored:
                counted[annotation["category_id"]] += 1
            elif not annotation.get("iscrowd", 0) and not report.counts.get("area-ignored"):
                reason = f"iscrowd {annotation.get('iscrowd')!r}, area {annotation.get('area')!r}"
                found.add("object-not-evaluated", **_about(truth, annotation, reason))
    except Exception as error:  # of any kind, as the annotations may hold anything
        found.add("evaluation-fails", f"{type(error).__name__}: {error}")
        return report.with_findings(found)
    classes, category_ids = report.facts["classes"], report.facts["category_ids"]
    for name, category_id, number in zip(classes, category_ids, counts.per_class, strict=True):
        if number and not counted[category_id]:
            found.add("class-not-evaluated", f"{name}: {number} objects in the file, 0 evaluated")
    return report.with_findings(found)


def _about(truth: COCO, annotation: dict[str, Any], reason: str) -> dict[str, Any]:
    image = truth.imgs[annotation["image_id"]]
    return about_annotation(annotation, {**image, "image_id": image["id"]}, reason)


def _evaluated(truth: COCO) -> list[tuple[dict[str, Any], bool]]:
    """Return each annotation of a listed image, and whether the box AP ignores it."""
    evaluation = COCOeval(truth, COCO(), "bbox")
    evaluation.params.imgIds, evaluation.params.catIds = list(truth.imgs), list(truth.cats)
    evaluation._prepare()
    evaluation.ious = defaultdict(list)  # there are no detections
    all_areas, max_detections = evaluation.params.areaRng[0], evaluation.params.maxDets[-1]
    return [
        (truth.anns[annotation_id], bool(is_ignored))
        for image_id, category_id in list(evaluation._gts)
        for result in [evaluation.evaluateImg(image_id, category_id, all_areas, max_detections)]
        for annotation_id, is_ignored in zip(result["gtIds"], result["gtIgnore"], strict=True)
    ]


def _check_masks(truth: COCO, found: Findings) -> None:
    for annotation in truth.anns.values():
        kind = kind_of_segmentation(annotation.get("segmentation"))
        if kind in ("none", "unusable") and annotation["image_id"] in truth.imgs:
            about = _about(truth, annotation, "no segmentation that can be used")
            found.add("mask-missing", **about)
