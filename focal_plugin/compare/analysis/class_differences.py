"""
Differences to the reference by class and by group of classes.

This is a secondary analysis: the verdict is about AP alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..plan.design import FEWEST_SEEDS
from .detection_analysis import ArmDetections, ClassOfData, DetectionAnalysis
from .detections.coco_json import FREQUENCIES
from .paired import Compared, by_arm, compared, number_of, paired_tests, stacked
from .scores import ArmScores, Standing
from .statistics import holm

GROUPS = ("rare", "common", "frequent")
"""Groups of classes, the rarest first; their averages are APr, APc and APf."""
LVIS_LIMITS = (10, 100)
"""Most training images of a rare class and of a common class (LVIS, arXiv:1908.03195)."""
LVIS_CLASSES = 30
"""Fewest classes for which the limits of LVIS hold; fewer classes are split into terciles."""


@dataclass(frozen=True)
class Tested(Compared):
    """
    Difference with a test.

    Attributes:
        p: p-value of the paired t test after Holm over all classes and arms. None for the
            reference, for fewer than :data:`~..plan.design.FEWEST_SEEDS` pairs, and while a run of
            the arm or of the reference is still to come.
    """

    p: float | None = None


@dataclass(frozen=True)
class ClassGroup:
    """
    Classes of similar frequency in the training data.

    Attributes:
        name: one of :data:`GROUPS`.
        classes: indices of its classes that have test objects.
        fewest, most: fewest and most training images or objects of these classes; None if the
            ground truth states the groups.
    """

    name: str
    classes: tuple[int, ...]
    fewest: int | None
    most: int | None


@dataclass(frozen=True)
class ClassDifferences:
    """
    AP in percent of parts of the test data, compared with the reference, seed by seed.

    A run that detected nothing has an AP of 0 here.

    Attributes:
        classes: arm -> one entry per class, in the order of
            :attr:`~.detection_analysis.DetectionAnalysis.classes`.
        tests: number of hypotheses that Holm's correction covers.
        counted: "images" or "objects" of the training data, which the groups count; "frequency" if
            the ground truth states the groups.
        groups: the groups that have classes; () if fewer than two have any.
        by_group: arm -> mean AP of the classes of each group.
    """

    classes: dict[str, tuple[Tested, ...]]
    tests: int
    counted: str
    groups: tuple[ClassGroup, ...]
    by_group: dict[str, tuple[Compared, ...]]


def class_differences(
    detections: DetectionAnalysis, standing: Standing, reference: str
) -> ClassDifferences | None:
    """
    Compare every arm with the reference, class by class.

    Args:
        detections: analysis of the detections of all arms.
        standing: scores of the same runs.
        reference: one of the arms.

    Returns:
        None if nothing could be evaluated.
    """
    classes = detections.classes
    if not classes:
        return None
    values = {arm: _per_class(of_arm, classes) for arm, of_arm in detections.arms.items()}
    rows = stacked(values)
    planned = {
        scores.arm: _pairs_to_come(scores, standing.arm(reference)) for scores in standing.arms
    }
    tested, tests = _tested(rows, reference, planned)
    counted, groups = class_groups(classes)
    means = {
        arm: {seed: _group_means(of_seed, groups) for seed, of_seed in of_arm.items()}
        for arm, of_arm in values.items()
    }
    return ClassDifferences(
        classes=tested,
        tests=tests,
        counted=counted,
        groups=groups,
        by_group={arm: tuple(found) for arm, found in by_arm(means, reference).items()},
    )


def class_groups(classes: Sequence[ClassOfData]) -> tuple[str, tuple[ClassGroup, ...]]:
    """
    Return what the groups count, and the groups.

    The groups are those of the `frequency` of the categories, if the ground truth has it. Else,
    with at least :data:`LVIS_CLASSES` classes, a class is rare up to 10 training images, common up
    to 100, and else frequent. With fewer classes, or if no run recorded the images, the limits are
    the terciles of the training objects of the classes.
    """
    if classes and all(data.frequency for data in classes):
        stated = [FREQUENCIES.index(data.frequency or "") for data in classes]
        return "frequency", _groups(classes, stated, [None] * len(classes))
    by_images = len(classes) >= LVIS_CLASSES and any(c.train_images is not None for c in classes)
    counts = [c.train_images if by_images else c.train_objects for c in classes]
    known = [count for count in counts if count is not None]
    limits: Sequence[float] = LVIS_LIMITS
    if not by_images and known:
        limits = np.quantile(known, [1 / 3, 2 / 3]).tolist()
    places = [None if count is None else sum(count > limit for limit in limits) for count in counts]
    return "images" if by_images else "objects", _groups(classes, places, counts)


def _groups(
    classes: Sequence[ClassOfData], places: Sequence[int | None], counts: Sequence[int | None]
) -> tuple[ClassGroup, ...]:
    """
    Return the groups of the classes that have test objects; () if fewer than two have any.

    Args:
        places: index into :data:`GROUPS` of each class; None for a class in no group.
        counts: what the groups count, of each class; None if they count nothing.
    """
    groups = []
    for place, name in enumerate(GROUPS):
        members = [i for i, data in enumerate(classes) if places[i] == place and data.val_objects]
        numbers = [count for count in (counts[i] for i in members) if count is not None]
        if members:
            fewest, most = (min(numbers), max(numbers)) if numbers else (None, None)
            groups.append(ClassGroup(name, tuple(members), fewest, most))
    return tuple(groups) if len(groups) > 1 else ()


def _per_class(arm: ArmDetections, classes: Sequence[ClassOfData]) -> dict[int, np.ndarray]:
    """Return seed -> (K,) AP of each class, percent; NaN without objects or evaluation."""
    return {
        seed: np.array(
            [
                number_of(spread.by_seed[seed], data.val_objects > 0)
                for spread, data in zip(arm.per_class, classes, strict=True)
            ]
        )
        for seed in arm.recall.by_seed
    }


def _group_means(per_class: np.ndarray, groups: Sequence[ClassGroup]) -> np.ndarray:
    return np.array([per_class[list(group.classes)].mean() for group in groups])


def _pairs_to_come(arm: ArmScores, reference: ArmScores) -> int:
    """Return the number of pairs once all runs are done or have failed."""
    return arm.planned - len({*arm.failed, *reference.failed} & arm.settled)


def _tested(
    rows: Mapping[str, np.ndarray], reference: str, planned: Mapping[str, int]
) -> tuple[dict[str, tuple[Tested, ...]], int]:
    """
    Return arm -> class -> difference, with p-values after Holm, and the number of hypotheses.

    Args:
        rows: arm -> (S, K) AP, a row per seed.
        planned: arm -> number of its runs.
    """
    spreads = {
        arm: compared(row, None if arm == reference else rows[reference])
        for arm, row in rows.items()
    }
    # A class without test objects has no AP in any run, and is no hypothesis
    exists = ~np.all([np.isnan(row).all(axis=0) for row in rows.values()], axis=0)
    hypotheses: list[tuple[str, int]] = []
    p_values: list[float | None] = []
    for arm in (arm for arm in rows if arm != reference):
        tests = paired_tests(rows[arm], rows[reference])
        enough = (tests.pairs >= FEWEST_SEEDS) & (tests.pairs == planned[arm])
        hypotheses += [(arm, k) for k in np.flatnonzero(exists).tolist()]
        p_values += [float(tests.p[k]) if enough[k] else None for k in np.flatnonzero(exists)]
    p_of = dict(zip(hypotheses, holm(p_values), strict=True))
    tested = {
        arm: tuple(Tested(**vars(c), p=p_of.get((arm, k))) for k, c in enumerate(of_arm))
        for arm, of_arm in spreads.items()
    }
    return tested, len(hypotheses)
