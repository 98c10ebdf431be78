"""Operating points and calibration of one run, in the numbers that the report keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .average_precision import Evaluation
from .calibration import Reliability, calibration
from .confusion import Confusion, confusion, images_without_objects
from .counted import CountedDetections, counted_detections
from .localization_recall_precision import OptimalLRP, optimal_lrp
from .operating_point import (
    CrossThresholds,
    cross_thresholds,
    half_of_images,
    mean_threshold,
    score_detections,
    shown_detections,
)

FIXED_SCORE = 0.5
LRP_NAMES = dict(
    zip(
        OptimalLRP._fields,
        ("olrp", "olrp_localisation", "olrp_false_positives", "olrp_false_negatives"),
        strict=True,
    )
)


@dataclass(frozen=True, eq=False)
class RunDecisions:
    """
    Decisions of a run at its score thresholds, and the calibration of its scores.

    Attributes:
        quantities: name -> number of all classes, see
            :data:`~focal_plugin.compare.analysis.decisions.QUANTITIES`.
        by_class: name -> (K,) numbers of each class; NaN for a class without objects.
        confusion: confusion matrix at the thresholds of the classes.
        reliability: detections in bins of their score.
        empty_images: number of images without objects.
    """

    quantities: dict[str, float]
    by_class: dict[str, np.ndarray]
    confusion: Confusion
    reliability: Reliability
    empty_images: int


def run_decisions(evaluation: Evaluation) -> RunDecisions:
    """Return the decisions of a run. All numbers but thresholds and counts are fractions."""
    found = counted_detections(evaluation)
    half = half_of_images(found.images)
    thresholds = cross_thresholds(found, half)
    shown = shown_detections(found, half, thresholds.by_class)
    empty = images_without_objects(evaluation.ground_truth)
    calibrated = calibration(evaluation, found)
    lrp = _optimal_lrp(found)
    return RunDecisions(
        quantities={
            **_at_thresholds(found, half, thresholds, shown),
            "false_positives": _per_image(shown & empty[found.image], empty),
            "d_ece": calibrated.d_ece,
            "laece0": calibrated.laece0,
            "bias": calibrated.bias,
            **{name: _mean(values) for name, values in lrp.items()},
        },
        by_class={
            **_of_classes(found, thresholds, shown),
            "d_ece": calibrated.d_ece_of_class,
            "laece0": calibrated.laece0_of_class,
            **lrp,
        },
        confusion=confusion(evaluation, found, shown),
        reliability=calibrated.reliability,
        empty_images=int(empty.sum()),
    )


def _at_thresholds(
    found: CountedDetections, half: np.ndarray, thresholds: CrossThresholds, shown: np.ndarray
) -> dict[str, float]:
    objects = len(found.object_image)

    def scored(subset: np.ndarray) -> tuple[float, ...]:
        numbers = score_detections((subset & found.right).sum(), subset.sum(), objects)
        return tuple(map(float, numbers))

    precision, recall, f1 = scored(shown)
    return {
        "threshold": float(mean_threshold(thresholds.together)),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "f1_one_threshold": scored(shown_detections(found, half, thresholds.together))[2],
        "f1_fixed": scored(found.score >= FIXED_SCORE)[2],
    }


def _of_classes(
    found: CountedDetections, thresholds: CrossThresholds, shown: np.ndarray
) -> dict[str, np.ndarray]:
    def count(subset: np.ndarray) -> np.ndarray:
        return np.bincount(found.category[subset], minlength=found.classes)

    objects = found.objects
    scored = score_detections(count(shown & found.right), count(shown), objects)
    numbers = {"threshold": mean_threshold(thresholds.by_class), **scored._asdict()}
    return {name: np.where(objects > 0, values, np.nan) for name, values in numbers.items()}


def _optimal_lrp(found: CountedDetections) -> dict[str, np.ndarray]:
    """Return name -> (K,) values."""
    of_class = [
        optimal_lrp(found.score[rows], found.iou[rows], objects)
        for rows, objects in zip(found.of_class, found.objects.tolist(), strict=True)
    ]
    columns = np.array(of_class).reshape(-1, len(LRP_NAMES)).T
    return dict(zip(LRP_NAMES.values(), columns, strict=True))


def _per_image(detections: np.ndarray, images: np.ndarray) -> float:
    return float(detections.sum() / images.sum()) if images.any() else float("nan")


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
