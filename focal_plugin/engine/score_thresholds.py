"""
Score thresholds of an evaluation, so that a trained model knows which of its boxes to show.

They are computed where the ground truth certainly is. A run can then leave its machine.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..score_thresholds import ClassThreshold, ScoreThresholds, best_f1

IOU = 0.5
"""IoU from which on a detection is correct."""


def score_thresholds(
    ground_truth: COCO,
    detections: list[dict[str, Any]],
    *,
    test_set: str,
    image_ids: Sequence[Any] | None = None,
) -> ScoreThresholds:
    """
    Return the F1-best score threshold of each class.

    pycocotools matches detections and objects, as for AP50: crowds do not count.

    Args:
        ground_truth: annotations with ids > 0, see
            :func:`~focal_plugin.engine.evaluation.number_annotations`.
        detections: entries of COCO's result format. A score that is not finite does not count.
        test_set: name of the dataset.
        image_ids: images that count; None for all.
    """
    matcher = _matched(ground_truth, detections, image_ids)
    images = len(matcher.params.imgIds)
    ids = matcher.params.catIds
    per_class = [matcher.evalImgs[k * images : (k + 1) * images] for k in range(len(ids))]
    counted = [_counted([result for result in of_class if result]) for of_class in per_class]
    names = [str(ground_truth.cats[id_].get("name", id_)) for id_ in ids]
    classes = [
        ClassThreshold.of(name, objects, best_f1(score, right, objects))
        for name, (score, right, objects) in zip(names, counted, strict=True)
    ]
    score, right = (np.concatenate([part[i] for part in counted] or [_NONE[i]]) for i in (0, 1))
    objects = sum(part[2] for part in counted)
    together = ClassThreshold.of("all classes", objects, best_f1(score, right, objects))
    return ScoreThresholds(test_set, IOU, together, tuple(classes))


_KEYS = ("image_id", "category_id", "bbox", "score")
_NONE = (np.zeros(0), np.zeros(0, bool))


def _matched(
    ground_truth: COCO, detections: list[dict[str, Any]], image_ids: Sequence[Any] | None
) -> COCOeval:
    # pycocotools adds keys to the entries
    copies = [{key: entry[key] for key in _KEYS} for entry in detections]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        found = ground_truth.loadRes(copies) if copies else COCO()
        matcher = COCOeval(ground_truth, found, "bbox")
        matcher.params.iouThrs = np.array([IOU])
        matcher.params.areaRng, matcher.params.areaRngLbl = matcher.params.areaRng[:1], ["all"]
        if image_ids is not None:
            matcher.params.imgIds = list(image_ids)
        matcher.evaluate()
    return matcher


def _counted(results: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return score and correctness of the detections of a class that count, and its objects."""
    score, right = [_NONE[0]], [_NONE[1]]
    for result in results:
        scores = np.array(result["dtScores"], dtype=float)
        counts = (result["dtIgnore"][0] == 0) & np.isfinite(scores)
        score.append(scores[counts])
        right.append(result["dtMatches"][0][counts] > 0)
    objects = sum(int(np.count_nonzero(result["gtIgnore"] == 0)) for result in results)
    return np.concatenate(score), np.concatenate(right), objects
