"""
Labels of all anchors of a dataset, counted by object, by image and by level.

The labels are those of the detector's matcher and crowd rule, anchor by anchor.

Shape shorthand:
    I: number of images
    M: number of annotations
    L: number of feature levels
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .anchored_set import AnchoredSet, Block
from .excluded_anchors import exclude_anchors
from .matching import Matched, is_rescuing, labels_of, largest_iou, match_pairs
from .overlaps import Pairs


class Labeling(NamedTuple):
    """
    Counts of the labels of all anchors.

    Attributes:
        best_iou: (M,), float32, largest IoU of each object with an anchor; 0 for a crowd region.
        positives: (M, L), int64, positive anchors of each object by level.
        forced: (M,), int64, those of them that are positive only as the best ones of an object.
        stolen: (M,), bool, objects whose anchors are all positive for other objects.
        anchors: (I, L), int64, anchors of each image by level.
        ignored: (I, L), int64, those of them with the label -1.
    """

    best_iou: np.ndarray
    positives: np.ndarray
    forced: np.ndarray
    stolen: np.ndarray
    anchors: np.ndarray
    ignored: np.ndarray

    def of(self, objects: np.ndarray) -> Labeling:
        """Return the counts of some annotations, a mask or indices."""
        return self._replace(
            best_iou=self.best_iou[objects],
            positives=self.positives[objects],
            forced=self.forced[objects],
            stolen=self.stolen[objects],
        )

    def positives_by_image(self, image: np.ndarray) -> np.ndarray:
        """
        Return the positive anchors of each image by level, (I, L), int64.

        Args:
            image: (M,), image of each annotation.
        """
        num_images, levels = self.anchors.shape
        columns = [
            np.bincount(image, weights=self.positives[:, level], minlength=num_images)
            for level in range(levels)
        ]
        return np.stack(columns, axis=1).astype(np.int64)


def label_anchors(data: AnchoredSet) -> Labeling:
    """Count the labels that a detector gives to the anchors of every image."""
    num, levels = len(data.table.classes), len(data.detector.levels)
    found = Labeling(
        best_iou=np.zeros(num, dtype=np.float32),
        positives=np.zeros((num, levels), dtype=np.int64),
        forced=np.zeros(num, dtype=np.int64),
        stolen=np.zeros(num, dtype=bool),
        anchors=data.grid.num_anchors,
        ignored=np.zeros_like(data.grid.num_anchors),
    )
    matcher = data.detector.matcher
    for block in data.blocks():
        objects = block.objects
        pairs = data.pairs(objects, floor=matcher.thresholds[1])
        images = data.table.image[objects]
        matched = match_pairs(matcher, data.grid, data.frame.boxes[objects], images, pairs)
        matched, found.ignored[block.images] = exclude_anchors(data, block, matched)
        _count(data, block, matched, found)
        found.best_iou[objects] = largest_iou(pairs, len(objects))
        has_candidate = np.zeros(len(objects), dtype=bool)
        has_candidate[pairs.object[_is_candidate(data, pairs, len(objects))]] = True
        found.stolen[objects] = has_candidate & (found.positives[objects].sum(axis=1) == 0)
    return found


def best_ious(data: AnchoredSet) -> np.ndarray:
    """Return the largest IoU of each object with an anchor, (M,), float32; 0 for a crowd region."""
    best = np.zeros(len(data.table.classes), dtype=np.float32)
    for block in data.blocks():
        pairs = data.pairs(block.objects, floor=1)
        best[block.objects] = largest_iou(pairs, len(block.objects))
    return best


def _is_candidate(data: AnchoredSet, pairs: Pairs, num_objects: int) -> np.ndarray:
    """Return the mask of the pairs that would be positive if the object were alone."""
    matcher = data.detector.matcher
    rescuing = is_rescuing(matcher, pairs, num_objects)
    if matcher.low_quality == "clobber":
        rescuing &= pairs.iou >= np.float32(matcher.thresholds[1])
    candidate: np.ndarray = rescuing | (labels_of(matcher, pairs.iou) == 1)
    return candidate


def _count(data: AnchoredSet, block: Block, matched: Matched, found: Labeling) -> None:
    positive = matched.label == 1
    owner = block.objects[matched.object[positive]]
    level = data.grid.level[matched.shape[positive]]
    np.add.at(found.positives, (owner, level), 1)
    np.add.at(found.forced, owner[matched.forced[positive]], 1)
