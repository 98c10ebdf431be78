"""
Numbers of the detections of one run.

A report keeps only these numbers of a run. So its memory hardly grows with the number of runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .average_precision import Evaluation
from .bootstrap import Resampled, resample
from .disagreement import ImageScores, image_scores
from .error_types import ErrorTypes, error_types
from .list_facts import ListFacts, list_facts
from .run_decisions import RunDecisions, run_decisions

PR_IOUS = (0.5, 0.75)


@dataclass(frozen=True, eq=False)
class RunNumbers:
    """
    Numbers of the detections of one run.

    Attributes:
        objects_per_class: (K,) number of objects, without crowds.
        has_detections: False if the run detected nothing.
        averages: metric -> fraction; NaN without objects.
        per_class: (K,) AP, fractions.
        curves: IoU -> (101,) precision at recall 0, .01, ... 1, mean over the classes.
        errors: errors by type.
        lists: length of the lists.
        decisions: operating points and calibration.
        scores: F1 of each image, at the best score threshold.
        resampled: AP on resampled images; None if they were not requested.
    """

    objects_per_class: np.ndarray
    has_detections: bool
    averages: dict[str, float]
    per_class: np.ndarray
    curves: dict[str, np.ndarray]
    errors: ErrorTypes
    lists: ListFacts
    decisions: RunDecisions
    scores: ImageScores
    resampled: Resampled | None


def run_numbers(
    evaluation: Evaluation,
    *,
    replicates: int,
    metrics: tuple[str, ...] = ("AP", "AR"),
    limit: int | None = None,
) -> RunNumbers:
    """
    Return the numbers of a run.

    Args:
        replicates: resamples of the images; 0 skips them.
        metrics: averages, with "AP".
        limit: most detections that the run keeps on an image, see :func:`~.list_facts.list_facts`.
    """
    found = evaluation.average_precision(metrics=metrics)
    assert found.per_class is not None  # "AP" was asked for
    return RunNumbers(
        objects_per_class=evaluation.objects_per_class,
        has_detections=evaluation.has_detections,
        averages=found.averages,
        per_class=found.per_class,
        curves={f"{iou:g}": evaluation.precision_recall(iou)[1] for iou in PR_IOUS},
        errors=error_types(evaluation),
        lists=list_facts(evaluation, found.averages["AP"], limit=limit),
        decisions=run_decisions(evaluation),
        scores=image_scores(evaluation),
        resampled=resample(evaluation, replicates=replicates) if replicates else None,
    )
