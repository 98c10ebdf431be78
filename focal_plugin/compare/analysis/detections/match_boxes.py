"""
Matching of detections and objects by the rules of pycocotools, with the result as arrays.

`COCOeval.evaluateImg` compares all detections of an image with all its objects, in Python. But only
a detection that overlaps an object of its class can match, and the objects of two images or of two
classes never compete. So this module first finds the overlapping pairs. Then it goes through the
ranks: at rank r, the r-th best detection of each image and class chooses its object, all at once.

Shape shorthand:
    A, T: object sizes, IoU thresholds
    G, N: objects, detections that count
    P: pairs of a detection and an object
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from pycocotools.cocoeval import COCOeval

from .coco_json import Detections, GroundTruth

AREAS = ("all", "small", "medium", "large")
"""Area ranges, A below, with the limits of pycocotools: 32 and 96 pixels squared."""
MAX_DETECTIONS = 100
"""Maximum number of detections per class and image."""

# Detections of several classes that are matched at once: 250 bytes for each
_AT_ONCE = 2**17


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
        images: (M,) images with annotations of the class, ascending.
        objects: (A, M) number of objects on each of these images.
    """

    detection: np.ndarray
    image: np.ndarray
    score: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    found: np.ndarray
    images: np.ndarray
    objects: np.ndarray


OF_DETECTIONS = ("detection", "image", "score", "matched", "ignored", "found")
"""Attributes of :class:`ClassMatches` with one entry for each detection, in the last axis."""


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
    kept = _kept(detections, images)
    order = ascending(ground_truth.category)
    classes = np.arange(categories + 1)
    last = np.searchsorted(detections.category[kept], classes)
    last_object = np.searchsorted(ground_truth.category[order], classes)
    found: list[ClassMatches] = []
    for k in _spans(last):
        part = kept[last[k[0]] : last[k[-1]]]
        objects = order[last_object[k[0]] : last_object[k[-1]]]
        found += _match_classes(ground_truth, detections, part, objects, k)
    return tuple(found)


def _spans(last: np.ndarray) -> list[range]:
    """Return the bounds of consecutive classes with :data:`_AT_ONCE` detections, or of one."""
    starts, of_span = [0], last[0]
    for k in range(1, len(last) - 1):
        if last[k + 1] - of_span > _AT_ONCE:
            starts.append(k)
            of_span = last[k]
    ends = [*starts[1:], len(last) - 1]
    return [range(first, end + 1) for first, end in zip(starts, ends, strict=True) if end > first]


def _match_classes(
    ground_truth: GroundTruth,
    detections: Detections,
    kept: np.ndarray,
    objects: np.ndarray,
    classes: range,
) -> list[ClassMatches]:
    """
    Match the detections of consecutive classes.

    Args:
        kept: (N,) their detections, by class.
        objects: (G,) their objects, by class.
        classes: bounds of the classes.
    """
    images = len(ground_truth.image_ids)
    object_category, category = ground_truth.category[objects], detections.category[kept]
    of_objects = _group(object_category, ground_truth.image[objects], images)
    of_detections = _group(category, detections.image[kept], images)
    crowd, area = ground_truth.crowd[objects], ground_truth.area[objects]
    box = detections.box[kept]

    ignorable = crowd | _has_other_size(area)
    lowest_iou = iou_thresholds()[0]
    pairs = _overlapping(
        ground_truth.box[objects], crowd, of_objects, box, of_detections, lowest_iou
    )
    near, found = _assign(pairs, of_detections, ignorable, crowd, iou_thresholds())
    # Most detections overlap no object of their class. They count at their own size
    shape = *found.shape[:2], len(kept)
    matched, ignored = np.zeros(shape, dtype=bool), np.empty(shape, dtype=bool)
    ignored[:] = _has_other_size(box[:, 2] * box[:, 3])[:, None]
    of_object = ignorable[np.arange(len(AREAS))[:, None, None], found]
    matched[..., near] = found >= 0
    ignored[..., near] = np.where(found >= 0, of_object, ignored[..., near])
    lowest = np.full(len(kept), -1)
    lowest[near] = np.append(objects, -1)[found[0, 0]]

    bounds = np.searchsorted(category, classes)
    object_bounds = np.searchsorted(object_category, classes)
    matches = []
    for of_class, objects_of_class in zip(pairwise(bounds), pairwise(object_bounds), strict=True):
        rows, columns = slice(*of_class), slice(*objects_of_class)
        with_objects, place = np.unique(ground_truth.image[objects[columns]], return_inverse=True)
        counted = [
            np.bincount(place[~other], minlength=len(with_objects))
            for other in ignorable[:, columns]
        ]
        matches.append(
            ClassMatches(
                detection=kept[rows],
                image=detections.image[kept[rows]],
                score=detections.score[kept[rows]],
                matched=matched[:, :, rows],
                ignored=ignored[:, :, rows],
                found=lowest[rows],
                images=with_objects,
                objects=np.array(counted, dtype=np.int32),
            )
        )
    return matches


def any_overlap(ground_truth: GroundTruth, detections: Detections, rows: np.ndarray) -> np.ndarray:
    """
    Match detections with objects of their class at any IoU above 0, without crowds.

    Args:
        rows: (N,) detections that take part, those of a class and image from the highest score on.

    Returns:
        (N,) IoU of each with its object; 0 without one.
    """
    images = len(ground_truth.image_ids)
    objects = np.flatnonzero(~ground_truth.crowd)
    of_objects = _group(ground_truth.category[objects], ground_truth.image[objects], images)
    of_detections = _group(detections.category[rows], detections.image[rows], images)
    no_crowd = np.zeros(len(objects), dtype=bool)
    box = ground_truth.box[objects], detections.box[rows]
    above_0 = np.nextafter(0, 1)
    pairs = _overlapping(box[0], no_crowd, of_objects, box[1], of_detections, above_0)
    near, found = _assign(pairs, of_detections, no_crowd[None], no_crowd, np.array([above_0]))
    matched = found[0, 0] >= 0
    detection, object_ = near[matched], found[0, 0, matched]
    iou = np.zeros(len(rows))
    iou[detection] = paired_iou(box[1][detection], box[0][object_])
    return iou


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """
    Return (N,) the IoU of each box of ``a`` with the box of ``b`` in the same row.

    Args:
        a, b: (N, 4) x, y, width, height in pixels. Boxes without a shared area have 0.
    """
    return box_overlap(a, b, np.zeros(len(a), dtype=bool))


def box_overlap(box: np.ndarray, object_box: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """
    Return (N,) the IoU of a box and an object; for a crowd, the share of the box that it covers.

    The operations are those of `pycocotools.mask.iou`, so the rounding is the same.

    Args:
        box, object_box: (N, 4) x, y, width, height in pixels.
        crowd: (N,) True for crowds.
    """
    (x, y, width, height), (left, top, wide, high) = box.T, object_box.T
    shared_width = np.minimum(width + x, wide + left) - np.maximum(x, left)
    shared_height = np.minimum(height + y, high + top) - np.maximum(y, top)
    both = (shared_width > 0) & (shared_height > 0)
    shared, area = shared_width * shared_height, width * height
    together = np.where(crowd, area, area + wide * high - shared)
    return np.divide(shared, together, out=np.zeros(len(box)), where=both)


def iou_thresholds() -> np.ndarray:
    """Return (T,) the IoU thresholds .5, .55, ... .95 of pycocotools."""
    return COCOeval(iouType="bbox").params.iouThrs


def recall_thresholds() -> np.ndarray:
    """Return (101,) the recall thresholds 0, .01, ... 1 of pycocotools."""
    return COCOeval(iouType="bbox").params.recThrs


def ascending(values: np.ndarray) -> np.ndarray:
    """
    Return (N,) the stable order of integers >= 0.

    NumPy sorts integers of 16 bits in linear time, with a radix sort.
    """
    type_ = np.min_scalar_type(values.max(initial=0))
    return np.argsort(values.astype(type_, copy=False), kind="stable")


def _group(category: np.ndarray, image: np.ndarray, images: int) -> np.ndarray:
    """Return one number for each class and image."""
    return category.astype(np.int64) * images + image


def _kept(detections: Detections, images: int) -> np.ndarray:
    """Return (N,) the detections that count, by class, in the order of :class:`ClassMatches`."""
    order = detections.order[ascending(detections.category[detections.order])]
    return order[
        _rank(_group(detections.category, detections.image, images)[order]) < MAX_DETECTIONS
    ]


def _rank(group: np.ndarray) -> np.ndarray:
    """Return the number of earlier entries of the same group, of each entry."""
    order = ascending(group)
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    lengths = np.diff(np.append(starts, len(group)))
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(starts, lengths)
    return rank


def _has_other_size(area: np.ndarray) -> np.ndarray:
    """Return (A, len(area)) True outside of the area range."""
    ranges: Any = COCOeval(iouType="bbox").params.areaRng
    return np.array([(area < low) | (area > high) for low, high in ranges])


def _overlapping(
    object_box: np.ndarray,
    crowd: np.ndarray,
    of_objects: np.ndarray,
    box: np.ndarray,
    of_detections: np.ndarray,
    lowest: float,
) -> _Pairs:
    """
    Return the pairs of the same class and image with an IoU of at least ``lowest``.

    Args:
        object_box: (G, 4) objects.
        crowd: (G,) True for crowds.
        of_objects: (G,) group of each object.
        box: (N, 4) detections.
        of_detections: (N,) group of each detection.
    """
    none = np.zeros(0, dtype=np.int64)
    parts = [_Pairs(none, none, np.zeros(0))]
    for detection, object_ in rounds(of_detections, of_objects):
        iou = box_overlap(box[detection], object_box[object_], crowd[object_])
        enough = iou >= lowest
        parts.append(_Pairs(detection[enough], object_[enough], iou[enough]))
    return _Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def rounds(
    of_detections: np.ndarray, of_objects: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """
    Pair each detection with all objects of its group: in round i with the i-th one.

    Args:
        of_detections: (N,) group of each detection, >= 0.
        of_objects: (G,) group of each object, >= 0.

    Yields:
        Detections and objects, (P,) indices each: the pairs of one round.
    """
    objects = ascending(of_objects)
    groups, starts, numbers = np.unique(of_objects[objects], return_index=True, return_counts=True)
    # The last entry is for detections of groups above all others
    group = np.searchsorted(groups, of_detections)
    with_objects = np.append(groups, -1)[group] == of_detections
    detections = np.flatnonzero(with_objects)
    group = group[detections]
    first, number = starts[group], numbers[group]
    place = 0
    while len(detections):
        yield detections, objects[first + place]
        place += 1
        left = number > place
        detections, first, number = detections[left], first[left], number[left]


def _assign(
    pairs: _Pairs,
    group: np.ndarray,
    ignorable: np.ndarray,
    crowd: np.ndarray,
    thresholds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Choose an object for each of the C detections that overlap one.

    A detection takes the free object with the largest IoU; of equal ones, the last in the file. It
    takes an object that does not count only if no other is left. A crowd stays free.

    Args:
        group: (N,) class and image of each detection.
        ignorable: (A, G) True for objects that do not count.
        crowd: (G,) True for crowds.
        thresholds: (T,) IoU thresholds.

    Returns:
        (C,) index of the detections, ascending, and (A, T, C) index of the object, -1 for none.
    """
    sizes, num_objects = ignorable.shape
    thresholds = thresholds[:, None]
    candidates, of_candidate = np.unique(pairs.detection, return_inverse=True)
    turn = _rank(group[candidates])
    preferred = np.lexsort((-pairs.object, -pairs.iou, of_candidate, turn[of_candidate]))
    # Each size has its own copy of all detections and objects, because it matches by itself
    size = np.repeat(np.arange(sizes), len(preferred))
    source, target, iou, is_crowd = (
        np.tile(column[preferred], sizes)
        for column in (of_candidate, pairs.object, pairs.iou, crowd[pairs.object])
    )
    turn = turn[source]
    last = ignorable[size, target]
    source += size * len(candidates)
    target = target + size * num_objects

    sources = sizes * len(candidates)
    found = np.full((len(thresholds), sources), -1, dtype=np.int32)
    taken = np.zeros((len(thresholds), sizes * num_objects), dtype=bool)
    order = np.argsort(2 * (turn * sources + source) + last, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(turn[order], prepend=-1)))[1:]:
        first = np.flatnonzero(np.diff(source[rows], prepend=-1))  # of each detection
        free = (iou[rows] >= thresholds) & (is_crowd[rows] | ~taken[:, target[rows]])
        place = np.where(free, np.arange(len(rows)), len(rows))
        best = np.minimum.reduceat(place, first, axis=1)
        threshold, of_source = np.nonzero(best < len(rows))
        chosen = target[rows[best[threshold, of_source]]]
        taken[threshold, chosen] = True
        found[threshold, source[rows[first[of_source]]]] = chosen % num_objects
    return candidates, found.reshape(len(thresholds), sizes, len(candidates)).swapaxes(0, 1)
