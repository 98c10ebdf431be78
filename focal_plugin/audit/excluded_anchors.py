"""Anchors that are not trained on: those across the border, in crowd regions, or by their IoU."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import Boxes

from .anchor_grid import AnchorGrid
from .anchored_set import AnchoredSet, Block
from .locations import Locations
from .matching import Matched


def exclude_anchors(
    data: AnchoredSet, block: Block, matched: Matched
) -> tuple[Matched, np.ndarray]:
    """
    Exclude anchors by the border of the image and by crowd regions.

    Args:
        matched: the anchors of the block that have a pair.

    Returns:
        the anchors with their final labels, and the number of ignored anchors of each image by
        level, (images, L), int64.
    """
    trained = data.trained_locations(block.images)
    image = matched.image - block.images[0]
    inside = trained.contain(image, matched.shape, matched.column, matched.row)
    matched = matched._replace(label=np.where(inside, matched.label, -1))
    ignored = data.grid.num_anchors[block.images] - _num_by_level(data.grid, trained)
    by_iou = inside & (matched.label == -1)
    np.add.at(ignored, (image[by_iou], data.grid.level[matched.shape[by_iou]]), 1)
    if data.detector.crowd_rule is not None:
        _exclude_crowds(data, block, trained, matched, ignored)
    return matched, ignored


def _num_by_level(grid: AnchorGrid, locations: Locations) -> np.ndarray:
    """Return the number of anchors at some locations of each image by level, (images, L)."""
    of_shape = locations.columns.number * locations.rows.number  # (images, S)
    first_shape = np.cumsum(grid.num_cells) - grid.num_cells
    by_level: np.ndarray = np.add.reduceat(of_shape, first_shape, axis=1)
    return by_level


def _exclude_crowds(
    data: AnchoredSet, block: Block, trained: Locations, matched: Matched, ignored: np.ndarray
) -> None:
    """Apply the crowd rule to each image with crowds; change labels and counts."""
    for image in np.unique(data.table.image[block.crowds]):
        labels = _labels_of_image(data, block, trained, matched, image)
        own = slice(*np.searchsorted(matched.image, [image, image + 1]))
        matched.label[own] = labels[matched.anchor[own]]
        shape, _, _ = data.grid.places(image)
        levels = data.grid.level[shape[labels == -1]]
        ignored[image - block.images[0]] = np.bincount(levels, minlength=len(data.grid.num_cells))


def labels_of_image(data: AnchoredSet, block: Block, matched: Matched, image: int) -> np.ndarray:
    """
    Return the labels of all anchors of an image, (R,), int64 in {-1, 0, 1}.

    Args:
        block: a block with the image.
        matched: the anchors of the block that have a pair.
    """
    return _labels_of_image(data, block, data.trained_locations(block.images), matched, image)


def _labels_of_image(
    data: AnchoredSet, block: Block, trained: Locations, matched: Matched, image: int
) -> np.ndarray:
    shape, column, row = data.grid.places(image)
    place = np.full_like(shape, image - block.images[0])
    labels = np.where(trained.contain(place, shape, column, row), 0, -1)
    own = slice(*np.searchsorted(matched.image, [image, image + 1]))
    labels[matched.anchor[own]] = matched.label[own]
    crowds = block.crowds[data.table.image[block.crowds] == image]
    if data.detector.crowd_rule is not None:
        data.detector.crowd_rule.apply_(
            torch.from_numpy(labels),
            Boxes(torch.from_numpy(data.grid.boxes(shape, column, row))),
            Boxes(torch.from_numpy(data.frame.boxes[crowds])),
            background=0,
        )
    return labels
