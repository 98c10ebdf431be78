"""
Matching of detections and objects by the rules of pycocotools, with the result as arrays.

`COCOeval.evaluateImg` compares all detections of an image with all its objects, in Python. But only
a detection that overlaps an object of its class can match, and the objects of two images or of two
classes never compete. So this module first finds the overlapping pairs. Then it goes through the
ranks: at rank r, the r-th best detection of each image and class chooses its object, all at once.

Shape shorthand:
    A, T: object sizes, IoU thresholds
    G, N: objects of the dataset, detections that count
    P: pairs of a detection and an object
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from .coco_json import Detections, GroundTruth

AREAS = ("all", "small", "medium", "large")
"""Area ranges, A below, with the limits of pycocotools: 32 and 96 pixels squared."""
MAX_DETECTIONS = 100
"""Maximum number of detections per class and image."""


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """
    Matches of the N detections of one class.

    The order is by score, highest first, then by image, then as in the file. An image has at most
    :data:`MAX_DETECTIONS` detections.

    Attributes:
        detection: (N,) index into the detections.
        image: (N,) index of the image.
        score: (N,) score.
        matched: (A, T, N) True for detections with an object, at T IoU thresholds.
        ignored: (A, T, N) True for detections that count neither as correct nor as false. The
            object is a crowd or of another size, or there is no object and the detection has
            another size.
        found: (N,) index of the object at the lowest IoU threshold, of any size; -1 for none.
        objects: (A, I) number of objects on each image.
    """

    detection: np.ndarray
    image: np.ndarray
    score: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    found: np.ndarray
    objects: np.ndarray


class _Pairs(NamedTuple):
    """
    Detections and objects that overlap enough for the lowest threshold.

    Attributes:
        detection: (P,) index into the detections that count.
        object: (P,) index into the objects.
        iou: (P,) IoU; for a crowd, the share of the detection that it covers.
    """

    detection: np.ndarray
    object: np.ndarray
    iou: np.ndarray


def match(ground_truth: GroundTruth, detections: Detections) -> tuple[ClassMatches, ...]:
    """
    Match all detections.

    Returns:
        Matches of each class of the ground truth.
    """
    categories, images = len(ground_truth.category_ids), len(ground_truth.image_ids)
    of_objects = _group(ground_truth, images)
    kept = _kept(detections, images)
    of_detections = _group(detections, images)[kept]
    box, category = detections.box[kept], detections.category[kept]

    ignorable = ground_truth.crowd | _has_other_size(ground_truth.area)
    pairs = _overlapping(ground_truth, of_objects, box, of_detections)
    found = _assign(pairs, of_detections, ignorable, ground_truth.crowd)
    matched = found >= 0
    # The last column is for -1, a detection without an object
    of_object = np.pad(ignorable, ((0, 0), (0, 1)))[np.arange(len(AREAS))[:, None, None], found]
    ignored = of_object | (~matched & _has_other_size(box[:, 2] * box[:, 3])[:, None])

    objects = np.array(
        [np.bincount(of_objects[~row], minlength=categories * images) for row in ignorable],
        dtype=np.int32,
    ).reshape(len(AREAS), categories, images)
    bounds = np.searchsorted(category, np.arange(categories + 1))
    return tuple(
        ClassMatches(
            detection=kept[first:last],
            image=detections.image[kept[first:last]],
            score=detections.score[kept[first:last]],
            matched=matched[:, :, first:last],
            ignored=ignored[:, :, first:last],
            found=found[0, 0, first:last],
            objects=objects[:, k],
        )
        for k, (first, last) in enumerate(pairwise(bounds))
    )


def iou_thresholds() -> np.ndarray:
    """Return (T,) the IoU thresholds .5, .55, ... .95 of pycocotools."""
    return COCOeval(iouType="bbox").params.iouThrs


def recall_thresholds() -> np.ndarray:
    """Return (101,) the recall thresholds 0, .01, ... 1 of pycocotools."""
    return COCOeval(iouType="bbox").params.recThrs


def _group(boxes: GroundTruth | Detections, images: int) -> np.ndarray:
    """Return one number for each class and image."""
    return boxes.category.astype(np.int64) * images + boxes.image


def _kept(detections: Detections, images: int) -> np.ndarray:
    """Return (N,) the detections that count, by class, in the order of :class:`ClassMatches`."""
    order = np.lexsort((detections.image, -detections.score, detections.category))
    return order[_rank(_group(detections, images)[order]) < MAX_DETECTIONS]


def _rank(group: np.ndarray) -> np.ndarray:
    """Return the number of earlier entries of the same group, of each entry."""
    order = np.argsort(group, kind="stable")
    sorted_group = group[order]
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(sorted_group, sorted_group)
    return rank


def _has_other_size(area: np.ndarray) -> np.ndarray:
    """Return (A, len(area)) True outside of the area range."""
    ranges: Any = COCOeval(iouType="bbox").params.areaRng
    return np.array([(area < low) | (area > high) for low, high in ranges])


def _overlapping(
    ground_truth: GroundTruth, of_objects: np.ndarray, box: np.ndarray, of_detections: np.ndarray
) -> _Pairs:
    """
    Return the pairs of the same class and image with an IoU of at least the lowest threshold.

    Args:
        of_objects: (G,) group of each object.
        box: (N, 4) detections.
        of_detections: (N,) group of each detection.
    """
    lowest = iou_thresholds()[0]
    objects_of, detections_of = _members(of_objects), _members(of_detections)
    none = np.zeros(0, dtype=np.int64)
    parts = [_Pairs(none, none, np.zeros(0))]
    for group in objects_of.keys() & detections_of.keys():
        objects, found = objects_of[group], detections_of[group]
        iou = mask.iou(box[found], ground_truth.box[objects], ground_truth.crowd[objects])
        rows, columns = np.nonzero(iou >= lowest)
        parts.append(_Pairs(found[rows], objects[columns], iou[rows, columns]))
    return _Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _members(group: np.ndarray) -> dict[int, np.ndarray]:
    """Return group -> its entries, ascending."""
    order = np.argsort(group, kind="stable")
    groups, first = np.unique(group[order], return_index=True)
    return dict(zip(groups.tolist(), np.split(order, first)[1:], strict=True))


def _assign(
    pairs: _Pairs, group: np.ndarray, ignorable: np.ndarray, crowd: np.ndarray
) -> np.ndarray:
    """
    Return the object of each detection.

    A detection takes the free object with the largest IoU; of equal ones, the last in the file. It
    takes an object that does not count only if no other is left. A crowd stays free.

    Args:
        group: (N,) class and image of each detection.
        ignorable: (A, G) True for objects that do not count.
        crowd: (G,) True for crowds.

    Returns:
        (A, T, N) index of the object, -1 for none.
    """
    (sizes, num_objects), num_detections = ignorable.shape, len(group)
    thresholds = iou_thresholds()[:, None]
    candidates, of_candidate = np.unique(pairs.detection, return_inverse=True)
    turn = np.tile(_rank(group[candidates])[of_candidate], sizes)
    # Each size has its own copy of all detections and objects, because it matches by itself
    size = np.repeat(np.arange(sizes), len(pairs.iou))
    source = size * num_detections + np.tile(pairs.detection, sizes)
    target = size * num_objects + np.tile(pairs.object, sizes)
    iou, is_crowd = np.tile(pairs.iou, sizes), np.tile(crowd[pairs.object], sizes)

    found = np.full((len(thresholds), sizes * num_detections), -1)
    taken = np.zeros((len(thresholds), sizes * num_objects), dtype=bool)
    order = np.lexsort((-target, -iou, ignorable.reshape(-1)[target], source, turn))
    for rows in np.split(order, np.flatnonzero(np.diff(turn[order], prepend=-1)))[1:]:
        first = np.flatnonzero(np.diff(source[rows], prepend=-1))  # of each detection
        free = (iou[rows] >= thresholds) & (is_crowd[rows] | ~taken[:, target[rows]])
        place = np.where(free, np.arange(len(rows)), len(rows))
        best = np.minimum.reduceat(place, first, axis=1)
        threshold, of_source = np.nonzero(best < len(rows))
        chosen = target[rows[best[threshold, of_source]]]
        taken[threshold, chosen] = True
        found[threshold, source[rows[first[of_source]]]] = chosen % num_objects
    return found.reshape(len(thresholds), sizes, num_detections).swapaxes(0, 1)
