"""
Error types of detections, and the gain of AP50 without each type.

The types and their corrections are those of TIDE (arXiv:2008.08115).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .average_precision import Evaluation, accumulate
from .match_boxes import ascending, paired_iou, rounds

ERROR_TYPES = (
    "classification",
    "localisation",
    "both",
    "duplicate",
    "background",
    "missed",
)
FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.1


@dataclass(frozen=True)
class ErrorTypes:
    """
    Errors of a run by type.

    Attributes:
        ap50: AP50 with all errors, a fraction.
        cost: type -> AP50 without the errors of that type, minus ``ap50``. The costs do not add up
            to 1 - ``ap50``, because correcting one type changes the costs of the others.
        counts: type -> number of detections; for "missed", number of objects.
    """

    ap50: float
    cost: dict[str, float]
    counts: dict[str, int]


@dataclass(frozen=True)
class _Counted:
    """
    Arrays of the M detections that count at IoU .5, and of the objects without crowds.

    The order is by score, highest first, then by image, then as in the file.

    Attributes:
        index: (M,) index into the detections.
        category: (M,) index of the class.
        right: (M,) True for correct detections.
        kind: (M,) index into ERROR_TYPES, -1 for correct detections.
        of: (M,) object, an index into the ground truth, that the detection misses only by its class
            or its location; -1 for none.
        total: (K,) number of objects.
        classes: classes with objects. They stay in the mean when all their objects are removed.
    """

    index: np.ndarray
    category: np.ndarray
    right: np.ndarray
    kind: np.ndarray
    of: np.ndarray
    total: np.ndarray
    classes: np.ndarray


def error_types(evaluation: Evaluation) -> ErrorTypes:
    """
    Classify the errors of a run, and return the cost of each type.

    A detection without a matched object, at IoU .5 with COCO's matching, has the first type that
    applies:

        localisation    .1 <= IoU < .5 with an object of its class
        classification  IoU >= .5 with an object of another class
        duplicate       IoU >= .5 with an object of its class, which has a better detection
        background      IoU < .1 with every object
        both            otherwise: .1 <= IoU < .5 with another class only

    A "missed" object has no detection, and no classification or localisation error refers to it.

    The correction of the first two types gives the detection the class or the location of its
    object. If that object is already found, or a corrected detection with a higher score finds it,
    the detection is removed. Detections of the next three types are removed. Missed objects are
    subtracted from the number of objects.

    Crowds, and detections in a crowd of their class, are ignored, because AP does not count them.

    Note:
        `tidecv`, the tool of the authors, agrees to rounding, with three exceptions. In `tidecv` a
        wrong class and a wrong location compete for one object, so both costs are slightly smaller.
        It counts false detections in crowds. And 10 of its 101 recall thresholds are the next
        floating-point number.

    Note:
        The cost of "missed" jumps. A class whose last found object is missed, too, goes from an
        AP50 of up to 1 without missed objects to 0, so its cost falls to 0. So read the cost
        together with the number of missed objects.

    Returns:
        Errors by type. The costs are NaN without objects. Without detections every object is
        missed, at cost 0.
    """
    counted = _classify(evaluation)
    missed = _missed(evaluation, counted)
    counts = np.bincount(counted.kind[counted.kind >= 0], minlength=len(ERROR_TYPES))
    counts[ERROR_TYPES.index("missed")] = missed.sum()
    ap50 = _ap50(evaluation, counted)
    fixed = {
        name: _without(evaluation, counted, kind) for kind, name in enumerate(ERROR_TYPES[:-1])
    }
    missed_of_class = np.bincount(
        evaluation.ground_truth.category[missed], minlength=len(counted.total)
    )
    fixed["missed"] = replace(counted, total=counted.total - missed_of_class)
    cost = {name: _ap50(evaluation, fixed[name]) - ap50 for name in ERROR_TYPES}
    return ErrorTypes(ap50, cost, dict(zip(ERROR_TYPES, counts.tolist(), strict=True)))


def _classify(evaluation: Evaluation) -> _Counted:
    detections = evaluation.detections
    found = np.full(len(detections.score), -1)
    counts = np.zeros(len(detections.score), bool)
    for matches in evaluation.classes:
        found[matches.detection] = matches.found
        counts[matches.detection] = ~matches.ignored[0, 0]
    index = detections.order[counts[detections.order]]
    right = found[index] >= 0
    kind, of = np.full(len(index), -1), np.full(len(index), -1)
    kind[~right], of[~right] = _kinds(evaluation, index[~right])
    category, total = detections.category[index], evaluation.objects_per_class
    return _Counted(index, category, right, kind, of, total, classes=np.flatnonzero(total))


def _kinds(evaluation: Evaluation, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Classify false detections.

    Returns:
        Type and object (-1 for none) of each detection.
    """
    classification, localisation, both, duplicate, background, _ = range(len(ERROR_TYPES))
    (own_iou, own), (other_iou, other) = _nearest(evaluation, rows)
    conditions = {
        localisation: (own_iou >= BACKGROUND_IOU) & (own_iou < FOREGROUND_IOU),
        classification: other_iou >= FOREGROUND_IOU,
        duplicate: own_iou >= FOREGROUND_IOU,
        background: np.maximum(own_iou, other_iou) < BACKGROUND_IOU,
    }
    kind = np.select(list(conditions.values()), list(conditions), default=both)
    of = np.full(len(rows), -1)
    of[kind == localisation] = own[kind == localisation]
    of[kind == classification] = other[kind == classification]
    return kind, of


def _nearest(
    evaluation: Evaluation, rows: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """
    Return the largest IoU with an object, and the first such object; -1 for no overlap.

    Returns:
        The two for objects of the class of the detection, and for objects of other classes.
    """
    detections, truth = evaluation.detections, evaluation.ground_truth
    box, category = detections.box[rows], detections.category[rows]
    objects = np.flatnonzero(~truth.crowd)
    object_box = truth.box[objects]
    iou = np.zeros((2, len(rows)))
    nearest = np.full((2, len(rows)), -1)
    for detection, place in rounds(detections.image[rows], truth.image[objects]):
        overlap = paired_iou(box[detection], object_box[place])
        near = overlap > 0
        detection, object_, overlap = detection[near], objects[place[near]], overlap[near]
        other = (category[detection] != truth.category[object_]).astype(int)
        nearer = overlap > iou[other, detection]
        at = other[nearer], detection[nearer]
        iou[at], nearest[at] = overlap[nearer], object_[nearer]
    return (iou[0], nearest[0]), (iou[1], nearest[1])


def _missed(evaluation: Evaluation, counted: _Counted) -> np.ndarray:
    """Return (G,) True for missed objects."""
    missed = ~evaluation.ground_truth.crowd & ~_found(evaluation)
    missed[counted.of[counted.of >= 0]] = False
    return missed


def _found(evaluation: Evaluation) -> np.ndarray:
    """Return (G,) True for objects with a detection at IoU .5."""
    found = np.zeros(len(evaluation.ground_truth.crowd), bool)
    for matches in evaluation.classes:
        found[matches.found[matches.found >= 0]] = True
    return found


def _without(evaluation: Evaluation, counted: _Counted, kind: int) -> _Counted:
    """Return the detections with the errors of one type corrected if possible, else removed."""
    taken = _found(evaluation)
    right, category = counted.right.copy(), counted.category.copy()
    candidates = np.flatnonzero((counted.kind == kind) & (counted.of >= 0))
    # The best detection of each object corrects itself
    targets, first = np.unique(counted.of[candidates], return_index=True)
    free = ~taken[targets]
    corrected = candidates[first[free]]
    right[corrected] = True
    category[corrected] = evaluation.ground_truth.category[targets[free]]
    keep = (counted.kind != kind) | right
    return replace(
        counted,
        index=counted.index[keep],
        category=category[keep],
        right=right[keep],
        kind=counted.kind[keep],
        of=counted.of[keep],
    )


def _ap50(evaluation: Evaluation, counted: _Counted) -> float:
    """
    Return AP50, the mean over the classes.

    A class whose objects are all missed has no objects left. Its precision is 0 at every recall.
    """
    image = evaluation.detections.image[counted.index]
    order = ascending(counted.category)
    bounds = np.searchsorted(counted.category[order], np.arange(len(counted.total) + 1))
    weights, objects = np.ones((len(evaluation.image_ids), 1)), counted.total.astype(float)
    values = []
    for k in counted.classes:
        rows, total = order[bounds[k] : bounds[k + 1]], objects[k : k + 1]
        right = counted.right[rows][None]
        precision, _ = accumulate(right, np.zeros_like(right), image[rows], weights, total)
        values.append(precision[0, 0] if total[0] else 0.0)
    return float(np.mean(values)) if values else float("nan")
