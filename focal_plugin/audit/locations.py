"""
Locations of the anchors that count in an image: all, or those inside the image.

Shape shorthand:
    O: number of images, one for each object if they are images of objects
    S: number of anchor shapes, over all levels
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from .anchor_grid import AnchorGrid, Axis


class Ranges(NamedTuple):
    """
    First and last location that counts, along one axis.

    Attributes:
        first, last: (O, S), int64; no location counts if last < first.
    """

    first: np.ndarray
    last: np.ndarray

    @property
    def number(self) -> np.ndarray:
        """Number of locations, (O, S)."""
        return (self.last - self.first + 1).clip(min=0)


class Locations(NamedTuple):
    """Columns and rows that count."""

    columns: Ranges
    rows: Ranges

    def contain(
        self, image: np.ndarray, shape: np.ndarray, column: np.ndarray, row: np.ndarray
    ) -> np.ndarray:
        """Return the mask of the anchors, (P,) each, that count."""
        x, y = ((r.first[image, shape], r.last[image, shape]) for r in self)
        within: np.ndarray = (x[0] <= column) & (column <= x[1]) & (y[0] <= row) & (row <= y[1])
        return within


def all_locations(grid: AnchorGrid, images: np.ndarray) -> Locations:
    """Return all locations of some images (O,)."""
    sizes = (grid.columns[images], grid.rows[images])
    columns, rows = (
        Ranges(np.zeros((len(images), len(grid.level)), dtype=np.int64), size[:, grid.level] - 1)
        for size in sizes
    )
    return Locations(columns, rows)


def inside_image(
    grid: AnchorGrid, among: Locations, image_sizes: np.ndarray, *, margin: float, closed: bool
) -> Locations:
    """
    Return the locations whose anchors do not cross the border by more than a margin.

    Args:
        among: locations of images.
        image_sizes: (O, 2), height and width of these images.
        margin: in pixels, >= 0.
        closed: whether an anchor may touch the border at the right and at the bottom.
    """
    heights, widths = image_sizes.T
    return Locations(
        _inside(grid.x, among.columns, widths, margin, closed),
        _inside(grid.y, among.rows, heights, margin, closed),
    )


def _inside(axis: Axis, among: Ranges, lengths: np.ndarray, margin: float, closed: bool) -> Ranges:
    first, last = among.first.copy(), among.last.copy()
    side: Literal["left", "right"] = "right" if closed else "left"
    for shape, (start, stop) in enumerate(zip(axis.start, [*axis.start[1:], None], strict=True)):
        low, high = axis.low[start:stop], axis.high[start:stop]
        first[:, shape] = np.maximum(first[:, shape], np.searchsorted(low, -margin))
        end = np.searchsorted(high, lengths + margin, side=side) - 1
        last[:, shape] = np.minimum(last[:, shape], end)
    return Ranges(first, last)
