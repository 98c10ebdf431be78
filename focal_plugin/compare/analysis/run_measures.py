"""Numbers that the report keeps of the detections of one run; the matches are dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .detections.average_precision import Evaluation
from .detections.bootstrap import Resampled, resample
from .detections.error_types import error_types

PR_IOUS = (0.5, 0.75)


@dataclass(frozen=True, eq=False)
class RunMeasures:
    """
    Numbers of one run with K classes; fractions, NaN without objects.

    Attributes:
        has_detections: False for a run that detected nothing.
        recall: AR, average recall with 100 detections per class and image.
        per_class: (K,) AP, in the order of the category ids.
        errors: error type -> gain of AP50 without the errors of this type.
        curves: IoU -> (101,) precision at recall 0, .01, ... 1, mean over the classes.
        resampled: AP on resampled images; None if no replicates were requested.
    """

    has_detections: bool
    recall: float
    per_class: np.ndarray
    errors: dict[str, float]
    curves: dict[str, np.ndarray]
    resampled: Resampled | None


def measure(evaluation: Evaluation, *, replicates: int) -> RunMeasures:
    """
    Return the numbers of one run.

    Args:
        evaluation: matched detections of the run.
        replicates: resamples of the images; 0 skips them.
    """
    found = evaluation.average_precision(metrics=("AP", "AR"))
    assert found.per_class is not None  # "AP" was asked for
    return RunMeasures(
        has_detections=evaluation.has_detections,
        recall=float(found.averages["AR"]),
        per_class=found.per_class,
        errors=error_types(evaluation).cost,
        curves={f"{iou:g}": evaluation.precision_recall(iou)[1] for iou in PR_IOUS},
        resampled=resample(evaluation, replicates=replicates) if replicates else None,
    )
