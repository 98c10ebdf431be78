"""
Matching of detections and objects by pycocotools, with the result as arrays.

`COCOeval.evaluateImg` does the matching. This module packs its dictionaries, one per image, class
and area range, into arrays per class.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from .coco_json import Detections, GroundTruth

AREAS = ("all", "small", "medium", "large")
"""Area ranges, A below, with the limits of pycocotools: 32 and 96 pixels squared."""
MAX_DETECTIONS = 100
"""Maximum number of detections per class and image."""


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """
    Matches of the N detections of one class.

    The order is by score, highest first, then by image, then as in the file. An image has at most
    :data:`MAX_DETECTIONS` detections.

    Attributes:
        detection: (N,) index into the detections.
        image: (N,) index of the image.
        score: (N,) score.
        matched: (A, T, N) True for detections with an object, at T IoU thresholds.
        ignored: (A, T, N) True for detections that count neither as correct nor as false. The
            object is a crowd or of another size, or there is no object and the detection has
            another size.
        found: (N,) index of the object at the lowest IoU threshold, of any size; -1 for none.
        objects: (A, I) number of objects on each image.
    """

    detection: np.ndarray
    image: np.ndarray
    score: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    found: np.ndarray
    objects: np.ndarray


def match(ground_truth: GroundTruth, detections: Detections) -> tuple[ClassMatches, ...]:
    """
    Match all detections.

    Returns:
        Matches of each class of the ground truth.
    """
    matcher = COCOeval(iouType="bbox")
    return tuple(
        _match_class(matcher, category, ground_truth, detections)
        for category in range(len(ground_truth.category_ids))
    )


def iou_thresholds() -> np.ndarray:
    """Return (T,) the IoU thresholds .5, .55, ... .95 of pycocotools."""
    return COCOeval(iouType="bbox").params.iouThrs


def recall_thresholds() -> np.ndarray:
    """Return (101,) the recall thresholds 0, .01, ... 1 of pycocotools."""
    return COCOeval(iouType="bbox").params.recThrs


def _match_class(
    matcher: COCOeval, category: int, ground_truth: GroundTruth, detections: Detections
) -> ClassMatches:
    objects = _by_image(ground_truth, category, _annotation)
    detected = _by_image(detections, category, _detection)
    images = sorted(objects.keys() | detected.keys())
    results = [_match_image(matcher, objects.get(i, []), detected.get(i, [])) for i in images]

    counts = np.zeros((len(AREAS), len(ground_truth.image_ids)), dtype=np.int32)
    for image, by_area in zip(images, results, strict=True):
        counts[:, image] = [np.count_nonzero(result["gtIgnore"] == 0) for result in by_area]
    ids = [np.array(by_area[0]["dtIds"], dtype=int) for by_area in results]
    detection = np.concatenate([np.zeros(0, dtype=int), *ids]) - 1
    order = np.argsort(-detections.score[detection], kind="stable")
    detection = detection[order]
    object_ids = _stacked(results, "dtMatches")[:, :, order].astype(np.int64)
    return ClassMatches(
        detection=detection,
        image=detections.image[detection],
        score=detections.score[detection],
        matched=object_ids > 0,
        ignored=_stacked(results, "dtIgnore")[:, :, order] > 0,
        found=object_ids[0, 0] - 1,
        objects=counts,
    )


def _stacked(results: list[list[dict[str, Any]]], key: str) -> np.ndarray:
    """Concatenate the images to (A, T, N)."""
    empty = np.zeros((len(AREAS), len(iou_thresholds()), 0))
    by_image = [np.stack([result[key] for result in by_area]) for by_area in results]
    return np.concatenate([empty, *by_image], axis=2)


def _match_image(
    matcher: COCOeval, objects: list[dict[str, Any]], detected: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return one result per area range; pycocotools uses keys (image, class)."""
    matcher._gts = defaultdict(list, {(0, 0): objects})
    matcher._dts = defaultdict(list, {(0, 0): detected})
    matcher.ious = {(0, 0): matcher.computeIoU(0, 0)}
    ranges = matcher.params.areaRng
    return [matcher.evaluateImg(0, 0, limits, MAX_DETECTIONS) for limits in ranges]


def _by_image(
    boxes: GroundTruth | Detections, category: int, entry: Any
) -> dict[int, list[dict[str, Any]]]:
    grouped: dict[int, list[dict[str, Any]]] = {}
    for index in np.flatnonzero(boxes.category == category):
        grouped.setdefault(int(boxes.image[index]), []).append(entry(boxes, index))
    return grouped


def _annotation(ground_truth: GroundTruth, index: int) -> dict[str, Any]:
    # Ids start at 1, because pycocotools never finds an object of id 0
    crowd = int(ground_truth.crowd[index])
    return {
        "id": int(index) + 1,
        "bbox": ground_truth.box[index].tolist(),
        "area": float(ground_truth.area[index]),
        "iscrowd": crowd,
        "ignore": crowd,
    }


def _detection(detections: Detections, index: int) -> dict[str, Any]:
    box = detections.box[index].tolist()
    return {
        "id": int(index) + 1,
        "bbox": box,
        "area": box[2] * box[3],
        "score": float(detections.score[index]),
    }
