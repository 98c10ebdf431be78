"""Analysis of the detections of all runs: classes, errors, recall and test images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...run_folder import RESULT_FILE
from ..plan.comparison import Comparison
from ..runs.run_folder import RunFolder
from .class_differences import ClassDifferences, class_differences
from .detections.average_precision import Evaluation, evaluate
from .detections.bootstrap import Resampled, difference_of
from .detections.coco_json import GroundTruth, read_ground_truth
from .detections.error_types import ERROR_TYPES
from .image_choice import ImageChoice, ShownRuns
from .problem import Problem, ProblemKind
from .run_measures import PR_IOUS, RunMeasures, measure
from .scores import NO_GROUND_TRUTH, NO_PREDICTIONS, NOT_EVALUATED, Spread, Value
from .test_data import ClassOfData, classes_of, is_on, shared_test_data

REPLICATES = 1000


@dataclass(frozen=True)
class PrecisionRecall:
    """
    Precision at recall 0, .01, ... 1, mean over the classes; fractions.

    Attributes:
        mean: (101,) mean over the seeds.
        low, high: (101,) lowest and highest seed.
    """

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class ImageDifference:
    """
    Difference in AP to the reference, percent, on resampled test images.

    Attributes:
        difference: mean over the seeds that both have; a run that detected nothing has AP 0.
        interval: 95% interval over the resamples of the images, without the noise of training.
        seeds: seeds that both have.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    standard_error: float
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class ArmDetections:
    """
    Analysis of the detections of one arm. All numbers but those of the curves are percent.

    Attributes:
        recall: AR, average recall with 100 detections per class and image.
        per_class: AP, in the order of :attr:`DetectionAnalysis.classes`.
        curves: IoU -> curve; {} if no run has predictions.
        errors: error type -> gain of AP50 without the errors of this type.
        images: difference to the reference; None for the reference itself.
    """

    arm: str
    recall: Spread
    per_class: tuple[Spread, ...]
    curves: dict[str, PrecisionRecall]
    errors: dict[str, Spread]
    images: ImageDifference | None


@dataclass(frozen=True)
class DetectionAnalysis:
    """
    Analysis of the detections of all arms.

    Attributes:
        classes: classes, the most frequent of the training data first.
        images: number of test images; 0 if nothing could be evaluated.
        arms: arm -> analysis of its detections.
        differences: differences to the reference per class; None if nothing could be evaluated.
        choice: images on which the arms differ most, if any.
        problems: detections that could not be evaluated, and why.
    """

    classes: tuple[ClassOfData, ...]
    images: int
    arms: dict[str, ArmDetections]
    differences: ClassDifferences | None
    choice: ImageChoice | None
    problems: tuple[Problem, ...]


Measured = dict[str, dict[int, RunMeasures]]
"""Arm -> seed -> numbers of the run."""


def analyze_detections(
    comparison: Comparison,
    folders: Mapping[str, list[RunFolder]],
    shown: Iterable[str],
    *,
    replicates: int = REPLICATES,
) -> DetectionAnalysis:
    """
    Evaluate every finished run again, against its own ground truth.

    Args:
        folders: arm -> its runs, one per seed.
        shown: arms for the images, the most interesting first.
        replicates: resamples of the images; 0 skips them.
    """
    data, problems = shared_test_data(folders)
    truth = None if data is None else _read(Path(data.json_file or ""), problems)
    measured: Measured = {arm: {} for arm in comparison.arms}
    pictured, objects = ShownRuns(shown), None
    if data is not None and truth is not None:
        on_data = [f for of_arm in folders.values() for f in of_arm if is_on(f, data)]
        # One run at a time, the runs of a seed together: nobody needs the matches of all runs
        places = {seed: place for place, seed in enumerate(comparison.seeds)}
        for folder in sorted(on_data, key=lambda f: places[f.run.seed]):
            evaluation = _evaluate(truth, folder, problems)
            if evaluation is not None:
                objects = evaluation.objects_per_class
                measured[folder.run.arm][folder.run.seed] = measure(
                    evaluation, replicates=replicates
                )
                pictured.offer(folder, evaluation)
    if data is None or truth is None or objects is None:
        arms = {arm: _not_evaluated(arm, folders[arm]) for arm in comparison.arms}
        return DetectionAnalysis((), 0, arms, None, None, tuple(problems))
    classes, order = classes_of(truth, objects, folders)
    images = _image_differences(measured, comparison.reference) if replicates else {}
    return DetectionAnalysis(
        classes=classes,
        images=len(truth.image_ids),
        arms={
            arm: _of_arm(arm, folders[arm], measured[arm], order, images.get(arm))
            for arm in comparison.arms
        },
        differences=class_differences(
            {
                arm: {seed: run.per_class[order] for seed, run in of_arm.items()}
                for arm, of_arm in measured.items()
            },
            classes,
            comparison.reference,
            {arm: len(of_arm) for arm, of_arm in folders.items()},
        ),
        choice=pictured.choose(data),
        problems=tuple(problems),
    )


def _read(file: Path, problems: list[Problem]) -> GroundTruth | None:
    try:
        return read_ground_truth(file)
    except ValueError as error:
        problems.append(Problem(ProblemKind.GROUND_TRUTH_BROKEN, detail=str(error)))
        return None


def _evaluate(truth: GroundTruth, folder: RunFolder, problems: list[Problem]) -> Evaluation | None:
    """Return the evaluation of a run; None if it is not done or its detections are broken."""
    if folder.detections is None:
        return None
    try:
        return evaluate(truth, folder.detections)
    except (ValueError, OSError, RecursionError) as error:
        detail = f"{error}; {folder.detections} is written again if you delete {RESULT_FILE}"
        problems.append(Problem(ProblemKind.DETECTIONS_BROKEN, (folder.run.name,), detail))
        return None


def _not_evaluated(arm: str, folders: list[RunFolder]) -> ArmDetections:
    nothing = Spread.of({r.run.seed: NOT_EVALUATED for r in folders if r.result is not None})
    return ArmDetections(arm, nothing, (), {}, dict.fromkeys(ERROR_TYPES, nothing), None)


def _of_arm(
    arm: str,
    folders: list[RunFolder],
    measured: Mapping[int, RunMeasures],
    order: list[int],
    images: ImageDifference | None,
) -> ArmDetections:
    seeds = [folder.run.seed for folder in folders if folder.result is not None]

    def over_seeds(value: Any) -> Spread:
        return Spread.of({seed: _value(measured.get(seed), value) for seed in seeds})

    return ArmDetections(
        arm=arm,
        recall=over_seeds(lambda run: run.recall),
        per_class=tuple(
            over_seeds(lambda run, place=place: run.per_class[place]) for place in order
        ),
        curves=_precision_recall(measured.values()),
        errors={kind: over_seeds(lambda run, kind=kind: run.errors[kind]) for kind in ERROR_TYPES},
        images=images,
    )


def _value(run: RunMeasures | None, value: Any) -> Value:
    if run is None:
        return NOT_EVALUATED
    if not run.has_detections:
        return NO_PREDICTIONS
    number = float(value(run))
    return NO_GROUND_TRUTH if math.isnan(number) else 100 * number


def _precision_recall(runs: Iterable[RunMeasures]) -> dict[str, PrecisionRecall]:
    with_detections = [run for run in runs if run.has_detections]
    if not with_detections:
        return {}
    curves = {}
    for iou in (f"{iou:g}" for iou in PR_IOUS):
        rows = np.array([run.curves[iou] for run in with_detections])
        if np.isfinite(rows).all():
            lines = (rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0))
            curves[iou] = PrecisionRecall(*(tuple(line.tolist()) for line in lines))
    return curves


def _image_differences(measured: Measured, reference: str) -> dict[str, ImageDifference | None]:
    """Return arm -> difference to the reference on resampled images."""
    resampled = {
        arm: {seed: run.resampled for seed, run in of_arm.items() if run.resampled is not None}
        for arm, of_arm in measured.items()
    }
    against = resampled.pop(reference)
    return {arm: _image_difference(of_arm, against) for arm, of_arm in resampled.items()}


def _image_difference(
    arm: dict[int, Resampled], reference: dict[int, Resampled]
) -> ImageDifference | None:
    seeds = tuple(seed for seed in arm if seed in reference)
    if not seeds:
        return None
    found = difference_of([(arm[seed], reference[seed]) for seed in seeds])
    low, high = found.interval
    if not (math.isfinite(found.difference) and math.isfinite(low)):
        return None
    return ImageDifference(
        100 * found.difference,
        (100 * low, 100 * high),
        float(found.p),
        100 * found.standard_error,
        seeds,
    )
