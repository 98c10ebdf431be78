"""
A dataset together with its anchors, in blocks that fit in memory.

Shape shorthand:
    M: number of annotations
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .anchor_grid import AnchorGrid, anchor_grid
from .detector import AnchoredDetector
from .locations import Locations, all_locations, inside_image
from .network_frame import FrameSize, NetworkFrame, to_network_frame
from .object_table import ObjectTable
from .overlaps import Pairs, overlapping_pairs

OBJECTS_AT_ONCE = 1024
"""Number of objects whose pairs are found together."""


class Block(NamedTuple):
    """
    Consecutive images.

    Attributes:
        images: indices of the images.
        objects: indices of their objects, without crowd regions.
        crowds: indices of their crowd regions.
    """

    images: np.ndarray
    objects: np.ndarray
    crowds: np.ndarray


class AnchoredSet(NamedTuple):
    """
    A dataset in pixels of the network's input, and the anchors of each image.

    Attributes:
        detector: labels the anchors.
        table: images and annotations; those of an image follow each other.
        frame: the boxes in pixels of the network's input.
        grid: the anchors.
    """

    detector: AnchoredDetector
    table: ObjectTable
    frame: NetworkFrame
    grid: AnchorGrid

    def blocks(self) -> Iterator[Block]:
        """Yield all images, in blocks of about :data:`OBJECTS_AT_ONCE` annotations."""
        num_images = len(self.table.file_names)
        ends = np.searchsorted(self.table.image, np.arange(num_images), side="right")
        first = begin = 0
        while first < num_images:
            stop = int(np.searchsorted(ends, begin + OBJECTS_AT_ONCE)) + 1
            stop = min(stop, num_images)
            yield self.block(first, stop)
            first, begin = stop, int(ends[stop - 1])

    def block(self, first: int, stop: int) -> Block:
        """Return the images ``first`` .. ``stop - 1``."""
        begin, end = np.searchsorted(self.table.image, [first, stop])
        annotations = np.arange(begin, end)
        is_object = self.table.is_object[annotations]
        return Block(np.arange(first, stop), annotations[is_object], annotations[~is_object])

    def pairs(self, objects: np.ndarray, *, floor: float) -> Pairs:
        """
        Return the pairs of some objects, see :func:`overlapping_pairs`.

        The index of an object in a pair is its place in ``objects``.
        """
        starts = range(0, max(len(objects), 1), OBJECTS_AT_ONCE)
        parts = []
        for start in starts:
            some = objects[start : start + OBJECTS_AT_ONCE]
            locations = self._matched(self.table.image[some])
            pairs = overlapping_pairs(self.grid, self.frame.boxes[some], locations, floor=floor)
            parts.append(pairs._replace(object=pairs.object + start))
        return Pairs(*(np.concatenate(field) for field in zip(*parts, strict=True)))

    def trained_locations(self, images: np.ndarray) -> Locations:
        """Return the locations of some images that their border does not exclude."""
        locations = self._matched(images)
        if self.detector.boundary_thresh < 0:
            return locations
        return inside_image(
            self.grid,
            locations,
            self.frame.image_sizes[images],
            margin=self.detector.boundary_thresh,
            closed=False,
        )

    def _matched(self, images: np.ndarray) -> Locations:
        """Return the locations whose anchors are matched with objects."""
        locations = all_locations(self.grid, images)
        if not self.detector.matches_inside_only:
            return locations
        sizes = self.frame.image_sizes[images]
        return inside_image(self.grid, locations, sizes, margin=0, closed=True)


def place_anchors(detector: AnchoredDetector, table: ObjectTable, size: FrameSize) -> AnchoredSet:
    """
    Resize a dataset to a size of the network's input, and place the anchors of each image.

    Raises:
        ValueError: the anchors do not lie on a regular grid.
    """
    frame = to_network_frame(table, size)
    return AnchoredSet(detector, table, frame, anchor_grid(detector, frame.image_sizes))
