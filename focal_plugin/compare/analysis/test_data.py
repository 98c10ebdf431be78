"""Test data that the runs of a comparison share, and its classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...files import sha256_of
from ..runs.environment import RecordedData
from ..runs.run_folder import RunFolder
from .detections.coco_json import GroundTruth
from .problem import Problem, ProblemKind


@dataclass(frozen=True)
class ClassOfData:
    """
    Class of a dataset, with the number of its objects.

    Attributes:
        label: name of the class, with its id if another class has the same name.
        train_objects: objects in the training data, without crowds; None if no run recorded it.
        train_images: training images with such an object; None if no run recorded it.
        val_objects: objects in the test data.
    """

    category_id: int | str
    label: str
    train_objects: int | None
    train_images: int | None
    val_objects: int


def shared_test_data(
    folders: Mapping[str, list[RunFolder]],
) -> tuple[RecordedData | None, list[Problem]]:
    """
    Return the test data of the first finished run, if its file exists and is unchanged.

    Args:
        folders: arm -> its runs, one per seed.
    """
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
    others = tuple(folder.run.name for folder in done if not is_on(folder, data))
    return data, [Problem(ProblemKind.OTHER_DATA, others)] if others else []


def is_on(folder: RunFolder, data: RecordedData) -> bool:
    """Return True if the first test set of a run has these annotations."""
    own = _test_data(folder)
    return own is not None and own.json_sha256 == data.json_sha256


def classes_of(
    truth: GroundTruth, objects: np.ndarray, folders: Mapping[str, list[RunFolder]]
) -> tuple[tuple[ClassOfData, ...], list[int]]:
    """
    Return the classes, the most frequent of the training data first.

    Args:
        truth: annotations of the test data, with K classes.
        objects: (K,) number of test objects per class.
        folders: arm -> its runs; the first that recorded its training data counts.

    Returns:
        The classes, and the index of each in the ground truth.
    """
    train = _train_data(folders)
    trained = _counts(train, "annotations_per_class")
    on_images = _counts(train, "images_per_class")
    names = Counter(truth.class_names)
    classes = []
    for place, id_ in enumerate(truth.category_ids):
        name = truth.class_names[place]
        unique = names[name] == 1
        label = name if unique else f"{name} (id {id_})"
        # A name that two classes share cannot be counted
        of_class = [c[name] if unique and c is not None else None for c in (trained, on_images)]
        classes.append(ClassOfData(id_, label, of_class[0], of_class[1], int(objects[place])))
    order = sorted(
        range(len(classes)),
        key=lambda i: (-(classes[i].train_objects or 0), -classes[i].val_objects, i),
    )
    return tuple(classes[i] for i in order), order


def _counts(train: Iterable[RecordedData], field: str) -> Counter[str] | None:
    """Return class -> its count over the training sets; None if no set has counts."""
    counted = [d for d in train if d.classes is not None and getattr(d, field) is not None]
    total: Counter[str] = Counter()
    for data in counted:
        total.update(dict(zip(data.classes or (), getattr(data, field), strict=True)))
    return total if counted else None


def _test_data(folder: RunFolder) -> RecordedData | None:
    return folder.environment.test[0] if folder.environment and folder.environment.test else None


def _train_data(folders: Mapping[str, list[RunFolder]]) -> tuple[RecordedData, ...]:
    found = [f.environment for of_arm in folders.values() for f in of_arm if f.environment]
    return found[0].train if found else ()
