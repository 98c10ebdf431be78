"""
Labels of anchors from their pairs with objects, as the matcher of the detector gives them.

Shape shorthand:
    O: number of objects
    P: number of pairs of an object and an anchor
    V: anchors that have a pair
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ..modeling.matcher import AnchorMatcher
from ..ops.match_anchors import match_anchors
from .anchor_grid import AnchorGrid
from .overlaps import Pairs


class Matched(NamedTuple):
    """
    Anchors that have a pair; all others have the label of the lowest IoU.

    Attributes:
        image: (V,), int64, ascending.
        anchor: (V,), int64, index among the anchors of the image, ascending in each image.
        shape, column, row: (V,), int64, shape and location.
        object: (V,), int64, index of the matched object.
        label: (V,), int64 in {-1 (ignored), 0 (background), 1 (positive)}.
        forced: (V,), bool, positive only as the best anchor of an object.
    """

    image: np.ndarray
    anchor: np.ndarray
    shape: np.ndarray
    column: np.ndarray
    row: np.ndarray
    object: np.ndarray
    label: np.ndarray
    forced: np.ndarray


def match_pairs(
    matcher: AnchorMatcher, grid: AnchorGrid, boxes: np.ndarray, images: np.ndarray, pairs: Pairs
) -> Matched:
    """
    Match anchors with objects from their pairs.

    Args:
        grid: the anchors.
        boxes: (O, 4), float32, XYXY.
        images: (O,), int64, image of each object, ascending.
        pairs: all pairs with an IoU of at least the lowest threshold, and the best ones of each
            object.
    """
    image = images[pairs.object]
    anchor = anchor_index(grid, image, pairs.shape, pairs.column, pairs.row)
    order = np.lexsort((anchor, image))  # stable: the objects of an anchor stay in their order
    is_first = np.diff(image[order], prepend=-1) != 0
    is_first |= np.diff(anchor[order], prepend=-1) != 0
    starts = np.flatnonzero(is_first)
    iou = pairs.iou[order]
    best = np.maximum.reduceat(iou, starts) if len(starts) else iou
    of_anchor = np.cumsum(is_first) - 1  # (P,) anchor of each pair
    owners = np.flatnonzero(iou == best[of_anchor])
    owner = owners[np.diff(of_anchor[owners], prepend=-1) != 0]  # the first object in a tie
    label = labels_of(matcher, best)
    rescued = np.zeros(len(starts), dtype=bool)
    rescued[of_anchor[is_rescuing(matcher, pairs, len(boxes))[order]]] = True
    if matcher.low_quality == "clobber":
        rescued &= best >= np.float32(matcher.thresholds[1])
    at = order[starts]
    matched = Matched(
        image=image[at],
        anchor=anchor[at],
        shape=pairs.shape[at],
        column=pairs.column[at],
        row=pairs.row[at],
        object=pairs.object[order[owner]],
        label=np.where(rescued, 1, label),
        forced=rescued & (label != 1),
    )
    _settle_weak(matcher, grid, boxes, images, matched, best)
    return matched


def anchor_index(
    grid: AnchorGrid, image: np.ndarray, shape: np.ndarray, column: np.ndarray, row: np.ndarray
) -> np.ndarray:
    """Return the index of anchors among those of their image, in the order of the generator."""
    level = grid.level[shape]
    before = np.cumsum(grid.num_anchors, axis=1) - grid.num_anchors  # anchors of finer levels
    location = row * grid.columns[image, level] + column
    index: np.ndarray = before[image, level] + location * grid.num_cells[level] + grid.cell[shape]
    return index


def labels_of(matcher: AnchorMatcher, iou: np.ndarray) -> np.ndarray:
    """Return the labels that IoUs give, without low-quality matches."""
    thresholds = np.array(matcher.thresholds[1:-1], dtype=np.float32)
    labels: np.ndarray = np.array(matcher.labels)[np.searchsorted(thresholds, iou, side="right")]
    return labels


def is_rescuing(matcher: AnchorMatcher, pairs: Pairs, num_objects: int) -> np.ndarray:
    """Return the mask of the pairs that make an anchor positive as the best one, (P,)."""
    if matcher.low_quality == "off":
        return np.zeros(len(pairs.iou), dtype=bool)
    is_best: np.ndarray = (pairs.iou == largest_iou(pairs, num_objects)[pairs.object]) & (
        pairs.iou > 0
    )
    return is_best


def largest_iou(pairs: Pairs, num_objects: int) -> np.ndarray:
    """Return the largest IoU of each object, (O,), float32; 0 without a pair."""
    best = np.zeros(num_objects, dtype=np.float32)
    if len(pairs.object):
        starts = np.flatnonzero(np.diff(pairs.object, prepend=-1))
        best[pairs.object[starts]] = np.maximum.reduceat(pairs.iou, starts)
    return best


def _settle_weak(
    matcher: AnchorMatcher,
    grid: AnchorGrid,
    boxes: np.ndarray,
    images: np.ndarray,
    matched: Matched,
    best: np.ndarray,
) -> None:
    """
    Write the object of each forced anchor below the lowest threshold.

    There, another object may have a larger IoU without a pair.
    """
    weak = np.flatnonzero(matched.forced & (best < np.float32(matcher.thresholds[1])))
    for image in np.unique(matched.image[weak]):
        some = weak[matched.image[weak] == image]
        first, stop = np.searchsorted(images, [image, image + 1])
        if stop - first > 1:
            anchors = grid.boxes(matched.shape[some], matched.column[some], matched.row[some])
            (objects,), _ = match_anchors(
                [torch.from_numpy(boxes[first:stop])],
                torch.from_numpy(anchors),
                thresholds=matcher.thresholds[1:-1],
                labels=matcher.labels,
                low_quality="off",
            )
            matched.object[some] = first + objects.numpy()
