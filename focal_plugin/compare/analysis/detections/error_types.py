"""
What keeps AP50 down: each kind of error, and what AP50 would gain without it.

The kinds and how each is put right are those of TIDE (arXiv:2008.08115).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask

from .average_precision import Evaluation, accumulate

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
    Attributes:
        ap50: as it is, a fraction.
        cost: kind -> AP50 without the errors of that kind, minus ``ap50``. They do not add up to
            what is missing: putting one kind right changes what the others cost.
        counts: kind -> how many; of "missed" objects, of the others detections.
    """

    ap50: float
    cost: dict[str, float]
    counts: dict[str, int]


@dataclass(frozen=True)
class _Counted:
    """
    The detections that count at IoU .5, M of them, and the objects without crowds, as arrays.

    ``right``: (M,) bool. ``kind``: (M,) index into ERROR_TYPES, -1 for right ones. ``of``: (M,) the
    object, an index into the ground truth, that a detection would have found but for its class or
    its place; -1: none. ``total``: (K,) number of objects. ``classes``: those with objects, which
    stay in the mean when all of theirs are taken out.
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
    A detection that has no object, at IoU .5 with COCO's matching, is the first of these that fits:

        localisation    .1 <= IoU < .5 with an object of its class
        classification  IoU >= .5 with an object of another class
        duplicate       IoU >= .5 with an object of its class (which then has a better detection)
        background      IoU < .1 with every object
        both            else: .1 <= IoU < .5, and with another class only

    and "missed" is an object without a detection that neither a classification nor a localisation
    error lies on.

    The first two are put right by giving the detection the class or the place of its object; if
    that object has been found already, or by a detection of a higher score put right likewise, the
    detection is removed. The next three are removed. Missed objects are taken out of the
    number of objects, as if they were found as well as the others.

    What AP does not count is not looked at: crowds, and detections that lie in one of their class.

    Note:
        `tidecv`, the tool of the authors, agrees to rounding but for this: there a wrong class and
        a wrong place compete for one object, so that the costs of both are a little smaller; false
        detections in crowds are counted; 10 of the 101 recalls are the next floating point number.

    Returns:
        NaN costs if there is nothing to find. No detections: every object is missed, at cost 0.
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
    truth, detections = evaluation.ground_truth, evaluation.detections
    found = np.full(len(detections.score), -1)
    counts = np.zeros(len(detections.score), bool)
    for matches in evaluation.classes:
        found[matches.detection] = matches.found
        counts[matches.detection] = ~matches.ignored[0, 0]
    index = np.flatnonzero(counts)
    right = found[index] >= 0
    kind, of = np.full(len(index), -1), np.full(len(index), -1)
    images = len(evaluation.image_ids)
    wrong = _by_image(np.flatnonzero(~right), detections.image[index], images)
    objects = _by_image(np.flatnonzero(~truth.crowd), truth.image, images)
    for rows, columns in zip(wrong, objects, strict=True):
        if len(rows):
            kind[rows], of[rows] = _kinds(evaluation, index[rows], columns)
    category, total = detections.category[index], evaluation.objects_per_class
    return _Counted(index, category, right, kind, of, total, classes=np.flatnonzero(total))


def _by_image(rows: np.ndarray, image: np.ndarray, images: int) -> list[np.ndarray]:
    """The rows of each image."""
    rows = rows[np.argsort(image[rows], kind="stable")]
    return np.split(rows, np.searchsorted(image[rows], np.arange(1, images)))


def _kinds(
    evaluation: Evaluation, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Of false detections, and the objects, of one image.

    Returns:
        kind and object (-1: none) of each.
    """
    classification, localisation, both, duplicate, background, _ = range(len(ERROR_TYPES))
    if not len(columns):
        return np.full(len(rows), background), np.full(len(rows), -1)
    detections, truth = evaluation.detections, evaluation.ground_truth
    iou = mask.iou(detections.box[rows], truth.box[columns], [0] * len(columns))
    same = detections.category[rows][:, None] == truth.category[columns]
    own, other = np.where(same, iou, 0.0), np.where(same, 0.0, iou)
    own_iou, other_iou = own.max(axis=1), other.max(axis=1)
    conditions = {
        localisation: (own_iou >= BACKGROUND_IOU) & (own_iou < FOREGROUND_IOU),
        classification: other_iou >= FOREGROUND_IOU,
        duplicate: own_iou >= FOREGROUND_IOU,
        background: np.maximum(own_iou, other_iou) < BACKGROUND_IOU,
    }
    kind = np.select(list(conditions.values()), list(conditions), default=both)
    of = np.full(len(rows), -1)
    of[kind == localisation] = columns[own.argmax(axis=1)][kind == localisation]
    of[kind == classification] = columns[other.argmax(axis=1)][kind == classification]
    return kind, of


def _missed(evaluation: Evaluation, counted: _Counted) -> np.ndarray:
    """(G,) bool."""
    missed = ~evaluation.ground_truth.crowd & ~_found(evaluation)
    missed[counted.of[counted.of >= 0]] = False
    return missed


def _found(evaluation: Evaluation) -> np.ndarray:
    """(G,) bool: has a detection at IoU .5."""
    found = np.zeros(len(evaluation.ground_truth.crowd), bool)
    for matches in evaluation.classes:
        found[matches.found[matches.found >= 0]] = True
    return found


def _without(evaluation: Evaluation, counted: _Counted, kind: int) -> _Counted:
    """The same with the errors of this kind put right where that is possible, else removed."""
    wrong = np.flatnonzero(counted.kind == kind)
    score = evaluation.detections.score[counted.index]
    taken = _found(evaluation)
    right, category = counted.right.copy(), counted.category.copy()
    for row in wrong[np.argsort(-score[wrong], kind="stable")]:
        target = counted.of[row]
        if target >= 0 and not taken[target]:
            taken[target] = right[row] = True
            category[row] = evaluation.ground_truth.category[target]
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
    The mean over the classes. One that has no objects left, all missed, was never found right: its
    precision is 0 at every recall, and stays so.
    """
    score = evaluation.detections.score[counted.index]
    image = evaluation.detections.image[counted.index]
    order = np.lexsort((counted.index, image, -score))
    weights = np.ones((1, len(evaluation.image_ids)))
    values = []
    for k in counted.classes:
        rows, total = order[counted.category[order] == k], counted.total[k : k + 1]
        right = counted.right[rows][None]
        precision, _ = accumulate(right, np.zeros_like(right), image[rows], weights, total)
        values.append(precision[0, 0] if total[0] else 0.0)
    return float(np.mean(values)) if values else float("nan")
