"""Evaluation of all runs on their test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode

from ...files import sha256_of
from ...run_folder import RESULT_FILE
from ..plan.score_threshold import score_threshold_of
from ..runs.environment import RecordedData
from ..runs.run_folder import RunFolder
from .detections.coco_json import GroundTruth, read_ground_truth
from .detections.run_numbers import RunNumbers
from .evaluate_files import FileOfRun, evaluate_files
from .problem import Problem, ProblemKind

REPLICATES = 1000
"""Resamples of the images for each arm."""


@dataclass(frozen=True)
class EvaluatedRuns:
    """
    Evaluated runs of all arms: what a report needs of their detections.

    Attributes:
        numbers: arm -> seed -> numbers of a run that is done; None if it could not be evaluated.
        files: arm -> seed -> file of its detections, relative to the folder of the comparison.
        cut_offs: arm -> scores from which its runs kept detections; () if they are not known.
        ground_truth: annotations of the test set; None if they cannot be read.
        json_file: file of the annotations; "" if there is none.
        image_root: folder of the images; "" if there is none.
        train_objects: class name -> objects of the training data; None if no run recorded it.
        train_images: class name -> training images with such an object; None if no run recorded it.
        problems: detections that could not be evaluated, and why.
    """

    numbers: dict[str, dict[int, RunNumbers | None]]
    files: dict[str, dict[int, str]]
    cut_offs: dict[str, tuple[float, ...]]
    ground_truth: GroundTruth | None
    json_file: str
    image_root: str
    train_objects: dict[str, int] | None
    train_images: dict[str, int] | None
    problems: tuple[Problem, ...]


def evaluate_folders(folders: Mapping[str, list[RunFolder]], *, replicates: int) -> EvaluatedRuns:
    """
    Evaluate every finished run again, against its own ground truth.

    Args:
        folders: arm -> its runs, one per seed.
        replicates: resamples of the images; 0 skips them.
    """
    data, problems = _test_set(folders)
    truth = None
    if data is not None:
        file = Path(data.json_file or "")
        try:
            truth = read_ground_truth(file)
            problems += data_problems(truth, file)
            if data.image_root and not Path(data.image_root).is_dir():
                problems.append(Problem(ProblemKind.IMAGES_MISSING, detail=data.image_root))
        except ValueError as error:
            problems.append(Problem(ProblemKind.GROUND_TRUTH_BROKEN, detail=str(error)))
    numbers: dict[str, dict[int, RunNumbers | None]] = {
        arm: {folder.run.seed: None for folder in of_arm if folder.result is not None}
        for arm, of_arm in folders.items()
    }
    if truth is not None and data is not None:
        on_data = [r for of_arm in folders.values() for r in of_arm if _is_on(r, data)]
        for folder, found in _numbers(truth, on_data, replicates, problems):
            numbers[folder.run.arm][folder.run.seed] = found
    return EvaluatedRuns(
        numbers=numbers,
        files={
            arm: {
                r.run.seed: r.detections.relative_to(r.path.parent).as_posix()
                for r in of_arm
                if r.detections is not None
            }
            for arm, of_arm in folders.items()
        },
        cut_offs={arm: _cut_offs(of_arm) for arm, of_arm in folders.items()},
        ground_truth=truth,
        json_file=(data and data.json_file) or "",
        image_root=(data and data.image_root) or "",
        train_objects=_train_counts(folders, "annotations_per_class"),
        train_images=_train_counts(folders, "images_per_class"),
        problems=tuple(problems),
    )


def data_problems(truth: GroundTruth, file: Path) -> tuple[Problem, ...]:
    """Return what keeps AP on a ground truth from meaning what it seems to mean."""
    return (Problem(ProblemKind.FEDERATED, detail=file.name),) if truth.federated else ()


def _numbers(
    truth: GroundTruth, folders: Iterable[RunFolder], replicates: int, problems: list[Problem]
) -> Iterator[tuple[RunFolder, RunNumbers | None]]:
    """Yield the runs with detections, and their numbers; None after an error."""
    found = [(folder, file) for folder in folders if (file := folder.detections) is not None]
    files = [FileOfRun(file, _limit(folder.config)) for folder, file in found]
    evaluated = evaluate_files(truth, files, replicates=replicates, metrics=("AP", "AR"))
    for (folder, file), numbers in zip(found, evaluated, strict=True):
        try:
            yield folder, numbers()
        except (ValueError, OSError, RecursionError) as error:
            detail = f"{error}; {file} is written again if you delete {RESULT_FILE}"
            problems.append(Problem(ProblemKind.DETECTIONS_BROKEN, (folder.run.name,), detail))
            yield folder, None


def _limit(config: CfgNode | None) -> int | None:
    """Return `TEST.DETECTIONS_PER_IMAGE`; None if it is not known, or no limit."""
    limit = config.get("TEST", {}).get("DETECTIONS_PER_IMAGE") if config else None
    return limit if type(limit) is int and limit > 0 else None


def _cut_offs(folders: Iterable[RunFolder]) -> tuple[float, ...]:
    configs = [folder.config for folder in folders if folder.result and folder.config]
    found = {score_threshold_of(config) for config in configs}
    return tuple(sorted(value for value in found if value is not None))


def _test_data(folder: RunFolder) -> RecordedData | None:
    return folder.environment.test[0] if folder.environment and folder.environment.test else None


def _is_on(folder: RunFolder, data: RecordedData) -> bool:
    own = _test_data(folder)
    return own is not None and own.json_sha256 == data.json_sha256


def _train_counts(folders: Mapping[str, list[RunFolder]], field: str) -> dict[str, int] | None:
    """Return class name -> its count in the training sets; None if no run recorded it."""
    found = [f.environment for of_arm in folders.values() for f in of_arm if f.environment]
    total: Counter[str] = Counter()
    counted = [
        data
        for data in (found[0].train if found else ())
        if data.classes is not None and getattr(data, field) is not None
    ]
    for data in counted:
        total.update(dict(zip(data.classes or (), getattr(data, field), strict=True)))
    return dict(total) if counted else None


def _test_set(
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
