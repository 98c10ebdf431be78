"""
Anchors of every image as regular grids, one per anchor shape.

The x-coordinates of an anchor depend on its column only, and the y-coordinates on its row. So the
anchors of an image of any size are a part of the same tables.

Shape shorthand:
    I: number of images
    L: number of feature levels
    S: number of anchor shapes, over all levels
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch

from .detector import AnchoredDetector


class Axis(NamedTuple):
    """
    Coordinates of all anchors along one axis.

    Attributes:
        low, high: (sum over S of the largest number of locations,), float32, in the order of the
            shapes.
        start: (S,), int64, the first entry of each shape.
        center: (S,), float64, center of the anchor at location 0.
        length: (S,), float64, length of an anchor.
    """

    low: np.ndarray
    high: np.ndarray
    start: np.ndarray
    center: np.ndarray
    length: np.ndarray


class AnchorGrid(NamedTuple):
    """
    Anchors of a set of images.

    Attributes:
        level: (S,), int64, level of each shape.
        cell: (S,), int64, index of each shape at a location.
        stride: (S,), int64, pixels between two locations.
        x, y: coordinates of the columns and of the rows.
        num_cells: (L,), int64, anchors at each location.
        columns, rows: (I, L), int64, locations of each level of each image.
    """

    level: np.ndarray
    cell: np.ndarray
    stride: np.ndarray
    x: Axis
    y: Axis
    num_cells: np.ndarray
    columns: np.ndarray
    rows: np.ndarray

    @property
    def num_anchors(self) -> np.ndarray:
        """Number of anchors of each level of each image, (I, L), int64."""
        return self.columns * self.rows * self.num_cells

    def boxes(self, shape: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return some anchors, (V,) each, as boxes (V, 4), float32, XYXY."""
        x, y = self.x.start[shape] + column, self.y.start[shape] + row
        corners = (self.x.low[x], self.y.low[y], self.x.high[x], self.y.high[y])
        return np.stack(corners, axis=1)

    def places(self, image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return shape, column and row of all anchors of an image, in the generator's order."""
        parts = []
        first_shape = np.cumsum(self.num_cells) - self.num_cells
        for level, cells in enumerate(self.num_cells):
            size = (self.rows[image, level], self.columns[image, level], cells)
            row, column, cell = (x.ravel() for x in np.indices(size))
            parts.append((first_shape[level] + cell, column, row))
        shape, column, row = (np.concatenate(field) for field in zip(*parts, strict=True))
        return shape, column, row


def anchor_grid(detector: AnchoredDetector, image_sizes: np.ndarray) -> AnchorGrid:
    """
    Return the anchors of images, each padded for itself.

    Args:
        detector: the detector with its anchor generator.
        image_sizes: (I, 2), int64, height and width of the network's input.

    Raises:
        ValueError: the anchors do not lie on a regular grid.
    """
    padded = padded_sizes(detector, image_sizes)
    strides = np.array(detector.strides)
    rows, columns = (-(-padded[:, i : i + 1] // strides) for i in (0, 1))
    largest = [(max(r), max(c)) for r, c in zip(_rows_of(rows), _rows_of(columns), strict=True)]
    num_cells = np.array(detector.generator.num_anchors)
    level = np.repeat(np.arange(len(strides)), num_cells)
    _require_grid(detector)
    return AnchorGrid(
        level=level,
        cell=np.concatenate([np.arange(n) for n in num_cells]),
        stride=strides[level],
        x=_axis(detector, [(1, c) for _, c in largest], num_cells, coordinate=0),
        y=_axis(detector, [(r, 1) for r, _ in largest], num_cells, coordinate=1),
        num_cells=num_cells,
        columns=columns,
        rows=rows,
    )


def padded_sizes(detector: AnchoredDetector, image_sizes: np.ndarray) -> np.ndarray:
    """Return the sizes, (I, 2), to which images are padded if each is a batch for itself."""
    unit = max(detector.size_divisibility, 1)
    return -(-image_sizes // unit) * unit


def _rows_of(sizes: np.ndarray) -> list[list[int]]:
    return [[1, *column] for column in sizes.T.tolist()]


def _generate(detector: AnchoredDetector, sizes: list[Any]) -> list[torch.Tensor]:
    """Return the anchors of feature maps of some (height, width)."""
    maps = [torch.empty(1, 1, int(h), int(w), device="meta") for h, w in sizes]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.meshgrid")  # Detectron2 omits `indexing`
        return [boxes.tensor for boxes in detector.generator(maps)]


def _axis(
    detector: AnchoredDetector, sizes: list[Any], num_cells: np.ndarray, *, coordinate: int
) -> Axis:
    low, high, start, center = [], [], [], []
    total = 0
    for anchors, cells in zip(_generate(detector, sizes), num_cells, strict=True):
        of_shapes = anchors.view(-1, cells, 4).numpy().transpose(1, 0, 2)  # (A, locations, 4)
        for shape in of_shapes:
            low.append(shape[:, coordinate])
            high.append(shape[:, coordinate + 2])
            start.append(total)
            center.append((shape[0, coordinate] + shape[0, coordinate + 2]) / 2)
            total += len(shape)
    lows, highs = np.concatenate(low), np.concatenate(high)
    starts = np.array(start)
    length = highs[starts].astype(np.float64) - lows[starts]
    return Axis(lows, highs, starts, np.array(center, dtype=np.float64), length)


def _require_grid(detector: AnchoredDetector) -> None:
    """Refuse a generator of another kind, whose anchors the tables would not hold."""
    rows, columns = 2, 3
    num_cells = np.array(detector.generator.num_anchors)
    levels = _generate(detector, [(rows, columns)] * len(detector.strides))
    for anchors, cells, stride in zip(levels, num_cells, detector.strides, strict=True):
        grid = anchors.view(rows, columns, cells, 4)
        step = torch.tensor([stride, 0, stride, 0])
        expected = grid[:1, :1] + step * torch.arange(columns).view(1, -1, 1, 1)
        expected = expected + step.roll(1) * torch.arange(rows).view(-1, 1, 1, 1)
        if not torch.allclose(grid, expected, rtol=0, atol=1e-3 * stride):
            name = type(detector.generator).__name__
            raise ValueError(f"the audit requires anchors on a regular grid, got those of {name}")
