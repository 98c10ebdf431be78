"""Analysis of the detections of all runs: classes, errors, recall and test images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .arm_lists import ArmLists, arm_lists
from .decisions import Decisions, decisions
from .detections.bootstrap import difference_of
from .detections.coco_json import GroundTruth
from .detections.disagreement import most_different_images
from .detections.error_types import ERROR_TYPES
from .detections.run_numbers import PR_IOUS, RunNumbers
from .evaluated_runs import EvaluatedRuns
from .problem import Problem
from .scores import NO_GROUND_TRUTH, NO_PREDICTIONS, NOT_EVALUATED, Spread, Value

IMAGES = 8
IMAGE_ARMS = 4  # more pictures beside the ground truth would be too small


@dataclass(frozen=True)
class ClassOfData:
    """
    Class of a dataset, with the number of its objects.

    Attributes:
        label: name of the class, with its id if another class has the same name.
        train_objects: objects in the training data, without crowds; None if no run recorded it.
        train_images: training images with such an object; None if no run recorded it.
        val_objects: objects in the test data.
        frequency: one of :data:`~.detections.coco_json.FREQUENCIES`; None unless the ground truth
            states that of every class.
    """

    category_id: int | str
    label: str
    train_objects: int | None
    train_images: int | None
    val_objects: int
    frequency: str | None = None


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
        p: two-sided p-value over the resamples; None for one seed, because it would stand beside a
            verdict that one seed cannot give.
        seeds: seeds that both have.
    """

    difference: float
    interval: tuple[float, float]
    p: float | None
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
        error_counts: error type -> number of its detections; for "missed", number of objects.
        lists: length of the lists of detections.
        images: difference to the reference; None for the reference itself.
    """

    arm: str
    recall: Spread
    per_class: tuple[Spread, ...]
    curves: dict[str, PrecisionRecall]
    errors: dict[str, Spread]
    error_counts: dict[str, Spread]
    lists: ArmLists
    images: ImageDifference | None


@dataclass(frozen=True)
class ImageChoice:
    """
    Images on which the arms differ most.

    Attributes:
        seed: seed of the runs that are shown.
        files: arm -> file of the detections of its run, see :class:`EvaluatedRuns`.
        thresholds: arm -> score threshold of the drawn detections, the best one for F1.
        image_ids: images, most different first.
    """

    seed: int
    files: dict[str, str]
    thresholds: dict[str, float]
    image_ids: tuple[int | str, ...]
    json_file: str
    image_root: str


@dataclass(frozen=True)
class DetectionAnalysis:
    """
    Analysis of the detections of all arms.

    Attributes:
        classes: classes, the most frequent of the training data first.
        images: number of test images; 0 if nothing could be evaluated.
        arms: arm -> analysis of its detections.
        decisions: operating points and calibration; None if nothing could be evaluated.
        choice: images on which the arms differ most, if any.
        problems: detections that could not be evaluated, and why.
    """

    classes: tuple[ClassOfData, ...]
    images: int
    arms: dict[str, ArmDetections]
    decisions: Decisions | None
    choice: ImageChoice | None
    problems: tuple[Problem, ...]

    @property
    def images_of_arms(self) -> dict[str, ImageDifference | None]:
        """Differences on resampled images by arm."""
        return {arm: found.images for arm, found in self.arms.items()}


def analyze_detections(
    evaluated: EvaluatedRuns, reference: str, shown: Iterable[str]
) -> DetectionAnalysis:
    """
    Analyze the detections of all arms.

    Args:
        evaluated: runs of all arms.
        reference: arm that the others are compared with.
        shown: arms for the images, the most interesting first.
    """
    numbers = evaluated.numbers
    known = {arm: _known(of_arm) for arm, of_arm in numbers.items()}
    first = next((run for of_arm in known.values() for run in of_arm.values()), None)
    truth = evaluated.ground_truth
    classes, order = _classes(first, truth, evaluated) if first and truth else ((), [])
    images = _image_differences(known, reference)
    return DetectionAnalysis(
        classes=classes,
        images=len(truth.image_ids) if first and truth else 0,
        arms={
            arm: _of_arm(arm, of_arm, order, evaluated.cut_offs[arm], images.get(arm))
            for arm, of_arm in numbers.items()
        },
        decisions=decisions(
            {
                arm: {seed: run.decisions for seed, run in of_arm.items()}
                for arm, of_arm in known.items()
            },
            order,
            reference,
        ),
        choice=_choose_images(known, [*shown], evaluated),
        problems=evaluated.problems,
    )


def _known(runs: Mapping[int, RunNumbers | None]) -> dict[int, RunNumbers]:
    return {seed: run for seed, run in runs.items() if run is not None}


def _classes(
    run: RunNumbers, truth: GroundTruth, evaluated: EvaluatedRuns
) -> tuple[tuple[ClassOfData, ...], list[int]]:
    """Return the classes, most frequent first, and their indices in the numbers of a run."""
    names = Counter(truth.class_names)
    classes = []
    for place, (id_, name) in enumerate(zip(truth.category_ids, truth.class_names, strict=True)):
        unique = names[name] == 1
        label = name if unique else f"{name} (id {id_})"
        # A name that two classes share cannot be counted
        objects, images = (
            trained.get(name, 0) if unique and trained is not None else None
            for trained in (evaluated.train_objects, evaluated.train_images)
        )
        tested = int(run.objects_per_class[place])
        frequency = truth.frequency[place] if truth.frequency else None
        classes.append(ClassOfData(id_, label, objects, images, tested, frequency))
    order = sorted(
        range(len(classes)),
        key=lambda i: (-(classes[i].train_objects or 0), -classes[i].val_objects, i),
    )
    return tuple(classes[i] for i in order), order


def _of_arm(
    arm: str,
    runs: Mapping[int, RunNumbers | None],
    order: list[int],
    cut_offs: tuple[float, ...],
    images: ImageDifference | None,
) -> ArmDetections:
    def over_seeds(value: Callable[[RunNumbers], float]) -> Spread:
        return Spread.of({seed: value_of(run, value) for seed, run in runs.items()})

    def ap_of_class(run: RunNumbers, place: int) -> float:
        return 100 * float(run.per_class[place])

    def cost(run: RunNumbers, kind: str) -> float:
        return 100 * run.errors.cost[kind]

    def counted(kind: str) -> Spread:
        counts = {seed: run.errors.counts[kind] for seed, run in _known(runs).items()}
        return Spread.of({seed: counts.get(seed, NOT_EVALUATED) for seed in runs})

    return ArmDetections(
        arm=arm,
        recall=over_seeds(lambda run: 100 * run.averages["AR"]),
        per_class=tuple(over_seeds(partial(ap_of_class, place=place)) for place in order),
        curves=_precision_recall(_known(runs).values()),
        errors={kind: over_seeds(partial(cost, kind=kind)) for kind in ERROR_TYPES},
        error_counts={kind: counted(kind) for kind in ERROR_TYPES},
        lists=arm_lists({seed: run.lists for seed, run in _known(runs).items()}, cut_offs),
        images=images,
    )


def value_of(run: RunNumbers | None, value: Callable[[RunNumbers], float]) -> Value:
    """Return a number of a run, or the reason why there is none."""
    if run is None:
        return NOT_EVALUATED
    if not run.has_detections:
        return NO_PREDICTIONS
    number = float(value(run))
    return NO_GROUND_TRUTH if math.isnan(number) else number


def _precision_recall(runs: Iterable[RunNumbers]) -> dict[str, PrecisionRecall]:
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


def _image_differences(
    runs: dict[str, dict[int, RunNumbers]], reference: str
) -> dict[str, ImageDifference | None]:
    """Return arm -> difference to the reference on resampled images."""
    others = [arm for arm in runs if arm != reference]
    return {arm: _image_difference(runs[arm], runs[reference]) for arm in others}


def _image_difference(
    arm: dict[int, RunNumbers], reference: dict[int, RunNumbers]
) -> ImageDifference | None:
    pairs = {
        seed: (arm[seed].resampled, reference[seed].resampled) for seed in arm if seed in reference
    }
    resampled = {seed: (a, b) for seed, (a, b) in pairs.items() if a and b}
    if not resampled:
        return None
    found = difference_of([*resampled.values()])
    low, high = found.interval
    if not (math.isfinite(found.difference) and math.isfinite(low)):
        return None
    return ImageDifference(
        100 * found.difference,
        (100 * low, 100 * high),
        float(found.p) if len(resampled) > 1 else None,
        100 * found.standard_error,
        tuple(resampled),
    )


def _choose_images(
    runs: dict[str, dict[int, RunNumbers]], shown: list[str], evaluated: EvaluatedRuns
) -> ImageChoice | None:
    """Return images of the first seed that most arms have; None for fewer than two arms."""
    arms = [arm for arm in shown if any(run.has_detections for run in runs[arm].values())]
    arms = arms[:IMAGE_ARMS]
    seeds = Counter(seed for arm in arms for seed in runs[arm])
    truth = evaluated.ground_truth
    if truth is None or not seeds or not Path(evaluated.image_root).is_dir():
        return None
    seed = max(sorted(seeds), key=seeds.__getitem__)
    chosen = {arm: runs[arm][seed].scores for arm in arms if seed in runs[arm]}
    if len(chosen) < 2:
        return None
    return ImageChoice(
        seed=seed,
        files={arm: evaluated.files[arm][seed] for arm in chosen},
        thresholds={arm: scores.threshold for arm, scores in chosen.items()},
        image_ids=tuple(most_different_images(chosen, truth.image_ids, IMAGES)),
        json_file=evaluated.json_file,
        image_root=evaluated.image_root,
    )
