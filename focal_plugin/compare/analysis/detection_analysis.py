"""Analysis of the detections of all runs: classes, errors, recall and test images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...files import sha256_of
from ...run_folder import RESULT_FILE
from ..plan.comparison import Comparison
from ..runs.environment import RecordedData
from ..runs.run_folder import RunFolder
from .detections.average_precision import Evaluation, evaluate
from .detections.bootstrap import Resampled, difference_of, resample
from .detections.coco_json import read_ground_truth
from .detections.disagreement import best_threshold, most_different_images
from .detections.error_types import ERROR_TYPES, error_types
from .problem import Problem, ProblemKind
from .scores import NO_GROUND_TRUTH, NO_PREDICTIONS, NOT_EVALUATED, Spread, Value

PR_IOUS = (0.5, 0.75)
REPLICATES = 1000
IMAGES = 8
IMAGE_ARMS = 4  # more pictures beside the ground truth would be too small


@dataclass(frozen=True)
class ClassOfData:
    """
    Class of a dataset, with the number of its objects.

    Attributes:
        label: name of the class, with its id if another class has the same name.
        train_objects: objects in the training data, without crowds; None if no run recorded it.
        val_objects: objects in the test data.
    """

    category_id: int | str
    label: str
    train_objects: int | None
    val_objects: int


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
class ImageChoice:
    """
    Images on which the arms differ most.

    Attributes:
        seed: seed of the runs that are shown.
        files: arm -> file of the detections of its run, in the folder of the comparison.
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
        choice: images on which the arms differ most, if any.
        problems: detections that could not be evaluated, and why.
    """

    classes: tuple[ClassOfData, ...]
    images: int
    arms: dict[str, ArmDetections]
    choice: ImageChoice | None
    problems: tuple[Problem, ...]


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
    data, problems = _ground_truth(folders)
    evaluations: dict[str, dict[int, Evaluation]] = {arm: {} for arm in comparison.arms}
    if data is not None:
        done = {arm: [r for r in folders[arm] if r.detections] for arm in comparison.arms}
        evaluations = _evaluate(data, done, problems)
    first = next((e for of_arm in evaluations.values() for e in of_arm.values()), None)
    if first is None or data is None:
        arms = {arm: _not_evaluated(arm, folders[arm]) for arm in comparison.arms}
        return DetectionAnalysis((), 0, arms, None, tuple(problems))
    classes, order = _classes(first, _train_data(folders))
    images = _image_differences(evaluations, comparison.reference, replicates)
    arms = {
        arm: _of_arm(arm, folders[arm], evaluations[arm], order, images.get(arm))
        for arm in comparison.arms
    }
    choice = _choose_images(evaluations, folders, [*shown], data)
    return DetectionAnalysis(classes, len(first.image_ids), arms, choice, tuple(problems))


def _evaluate(
    data: RecordedData, folders: Mapping[str, list[RunFolder]], problems: list[Problem]
) -> dict[str, dict[int, Evaluation]]:
    """Return arm -> seed -> evaluation; the ground truth is read once."""
    evaluations: dict[str, dict[int, Evaluation]] = {arm: {} for arm in folders}
    try:
        ground_truth = read_ground_truth(Path(data.json_file or ""))
    except ValueError as error:
        problems.append(Problem(ProblemKind.GROUND_TRUTH_BROKEN, detail=str(error)))
        return evaluations
    for arm, of_arm in folders.items():
        for folder in of_arm:
            if folder.detections is None or not _is_on(folder, data):
                continue
            try:
                found = evaluate(ground_truth, folder.detections)
            except (ValueError, OSError, RecursionError) as error:
                detail = (
                    f"{error}; {folder.detections} is written again if you delete {RESULT_FILE}"
                )
                problems.append(Problem(ProblemKind.DETECTIONS_BROKEN, (folder.run.name,), detail))
                continue
            evaluations[arm][folder.run.seed] = found
    return evaluations


def _test_data(folder: RunFolder) -> RecordedData | None:
    return folder.environment.test[0] if folder.environment and folder.environment.test else None


def _is_on(folder: RunFolder, data: RecordedData) -> bool:
    own = _test_data(folder)
    return own is not None and own.json_sha256 == data.json_sha256


def _train_data(folders: Mapping[str, list[RunFolder]]) -> tuple[RecordedData, ...]:
    found = [f.environment for of_arm in folders.values() for f in of_arm if f.environment]
    return found[0].train if found else ()


def _ground_truth(
    folders: Mapping[str, list[RunFolder]],
) -> tuple[RecordedData | None, list[Problem]]:
    """Return the dataset of the first finished run, if its file exists and is unchanged."""
    done = [r for of_arm in folders.values() for r in of_arm if r.detections is not None]
    recorded = [data for data in map(_test_data, done) if data and data.json_file]
    if not done:
        return None, [Problem(ProblemKind.NO_RUN_DONE)]
    if not recorded:
        return None, [Problem(ProblemKind.NO_DATA_RECORDED)]
    # Runs on several machines record several paths of the same data
    data = next((data for data in recorded if Path(data.json_file or "").is_file()), recorded[0])
    file = Path(data.json_file or "")
    if not file.is_file():
        return None, [Problem(ProblemKind.GROUND_TRUTH_MISSING, detail=str(file))]
    if sha256_of(file) != data.json_sha256:
        return None, [Problem(ProblemKind.GROUND_TRUTH_CHANGED, detail=str(file))]
    others = tuple(folder.run.name for folder in done if not _is_on(folder, data))
    return data, [Problem(ProblemKind.OTHER_DATA, others)] if others else []


def _classes(
    evaluation: Evaluation, train: Iterable[RecordedData]
) -> tuple[tuple[ClassOfData, ...], list[int]]:
    """Return the classes, most frequent first, and their indices in the evaluation."""
    trained: Counter[str] = Counter()
    counted = [d for d in train if d.classes is not None and d.annotations_per_class is not None]
    for data in counted:
        trained.update(dict(zip(data.classes or (), data.annotations_per_class or (), strict=True)))
    names = Counter(evaluation.class_names)
    classes = []
    for place, id_ in enumerate(evaluation.category_ids):
        name = evaluation.class_names[place]
        unique = names[name] == 1
        label = name if unique else f"{name} (id {id_})"
        # A name that two classes share cannot be counted
        count = trained[name] if unique and counted else None
        classes.append(ClassOfData(id_, label, count, int(evaluation.objects_per_class[place])))
    order = sorted(
        range(len(classes)),
        key=lambda i: (-(classes[i].train_objects or 0), -classes[i].val_objects, i),
    )
    return tuple(classes[i] for i in order), order


def _not_evaluated(arm: str, folders: list[RunFolder]) -> ArmDetections:
    nothing = Spread.of({r.run.seed: NOT_EVALUATED for r in folders if r.result is not None})
    return ArmDetections(arm, nothing, (), {}, dict.fromkeys(ERROR_TYPES, nothing), None)


def _of_arm(
    arm: str,
    folders: list[RunFolder],
    evaluations: dict[int, Evaluation],
    order: list[int],
    images: ImageDifference | None,
) -> ArmDetections:
    seeds = [folder.run.seed for folder in folders if folder.result is not None]
    averages = {seed: e.average_precision(metrics=("AP", "AR")) for seed, e in evaluations.items()}
    costs = {seed: error_types(e).cost for seed, e in evaluations.items()}

    def of_class(seed: int, place: int) -> float:
        per_class = averages[seed].per_class
        assert per_class is not None  # "AP" was asked for
        return float(per_class[place])

    def over_seeds(value: Any) -> Spread:
        return Spread.of({seed: _value(evaluations.get(seed), seed, value) for seed in seeds})

    return ArmDetections(
        arm=arm,
        recall=over_seeds(lambda seed: averages[seed].averages["AR"]),
        per_class=tuple(
            over_seeds(lambda seed, place=place: of_class(seed, place)) for place in order
        ),
        curves=_precision_recall(evaluations.values()),
        errors={
            kind: over_seeds(lambda seed, kind=kind: costs[seed][kind]) for kind in ERROR_TYPES
        },
        images=images,
    )


def _value(evaluation: Evaluation | None, seed: int, value: Any) -> Value:
    if evaluation is None:
        return NOT_EVALUATED
    if not evaluation.has_detections:
        return NO_PREDICTIONS
    number = float(value(seed))
    return NO_GROUND_TRUTH if math.isnan(number) else 100 * number


def _precision_recall(evaluations: Iterable[Evaluation]) -> dict[str, PrecisionRecall]:
    with_detections = [e for e in evaluations if e.has_detections]
    if not with_detections:
        return {}
    curves = {}
    for iou in PR_IOUS:
        rows = np.array([e.precision_recall(iou)[1] for e in with_detections])
        if np.isfinite(rows).all():
            lines = (rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0))
            curves[f"{iou:g}"] = PrecisionRecall(*(tuple(line.tolist()) for line in lines))
    return curves


def _image_differences(
    evaluations: dict[str, dict[int, Evaluation]], reference: str, replicates: int
) -> dict[str, ImageDifference | None]:
    """Return arm -> difference to the reference on resampled images."""
    if not replicates:
        return {}
    resampled = {
        arm: {seed: resample(e, replicates=replicates) for seed, e in of_arm.items()}
        for arm, of_arm in evaluations.items()
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


def _choose_images(
    evaluations: dict[str, dict[int, Evaluation]],
    folders: Mapping[str, list[RunFolder]],
    shown: list[str],
    data: RecordedData,
) -> ImageChoice | None:
    """Return images of the first seed that most arms have; None for fewer than two arms."""
    arms = [arm for arm in shown if any(e.has_detections for e in evaluations[arm].values())]
    arms = arms[:IMAGE_ARMS]
    seeds = Counter(seed for arm in arms for seed in evaluations[arm])
    if not seeds or not Path(data.image_root or "").is_dir():
        return None
    seed = max(sorted(seeds), key=seeds.__getitem__)
    chosen = {arm: evaluations[arm][seed] for arm in arms if seed in evaluations[arm]}
    if len(chosen) < 2:
        return None
    of_seed = [r for arm in chosen for r in folders[arm] if r.run.seed == seed]
    return ImageChoice(
        seed=seed,
        files={
            r.run.arm: r.detections.relative_to(r.path.parent).as_posix()
            for r in of_seed
            if r.detections is not None
        },
        thresholds={arm: float(best_threshold(e)) for arm, e in chosen.items()},
        image_ids=tuple(most_different_images(chosen, IMAGES)),
        json_file=data.json_file or "",
        image_root=data.image_root or "",
    )
