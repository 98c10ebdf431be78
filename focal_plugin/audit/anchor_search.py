"""
Search for anchor sizes and ratios that reach the objects of every class.

The size of an anchor is a scale times the stride of its level, and all levels share the scales, as
in RetinaNet. So each level has the sizes that its stride serves, and the levels together cover all
sizes. The scales of a level end where those of the next level begin: a large anchor on a fine level
has many locations, and would take the positives from small objects. Differential evolution searches
scales and ratios (Zlocha et al. 2019, arXiv:1906.02283).

The paper maximizes the mean best IoU. Here an object counts from an IoU of .4 on, and fully from .6
on. Each class counts alike, and the anchors have their places on the grid. k-means on the
logarithms of width and height ignores the grid.

Shape shorthand:
    M: number of objects
    L: number of feature levels
    S: anchor sizes per level
    Q: aspect ratios
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .anchored_set import AnchoredSet

COUNTS_FROM, COUNTS_FULLY = 0.4, 0.6
"""IoU from which on an object counts, and from which on a larger IoU adds little."""
BEYOND = 0.1
"""Weight of the IoU itself, which decides between anchors that are good enough for all objects."""
MOST_ELONGATED = 8.0
"""Largest ratio of the sides of an anchor."""
GENERATIONS, POPULATION = 60, 8
"""Generations of the evolution, and its population per number that is searched."""


class Shapes(NamedTuple):
    """
    Shapes of the anchors at every location.

    Attributes:
        scales: (S,), anchor size over the stride of its level, ascending.
        ratios: (Q,), height over width, ascending.
    """

    scales: np.ndarray
    ratios: np.ndarray


class Reach:
    """Best IoU of objects with the anchors of any shape at the locations of a grid."""

    def __init__(self, data: AnchoredSet) -> None:
        """Measure the distance of each object from the nearest location of each level."""
        objects = np.flatnonzero(data.table.is_object)
        boxes = data.frame.boxes[objects].astype(np.float64)
        images, grid = data.table.image[objects], data.grid
        first = np.searchsorted(grid.level, np.arange(len(grid.num_cells)))
        self.strides = grid.stride[first]
        self.width, self.height = (boxes[:, 2:] - boxes[:, :2]).astype(np.float32).T
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        self.dx, self.dy = (
            _distances(middle[:, i], axis.center[first], self.strides, counts[images])
            for i, (axis, counts) in enumerate([(grid.x, grid.columns), (grid.y, grid.rows)])
        )

    def best_iou(self, shapes: Shapes) -> np.ndarray:
        """Return the largest IoU of each object, (M,), float32."""
        best = np.zeros_like(self.width)
        root = np.sqrt(shapes.ratios)
        for level, stride in enumerate(self.strides):
            size = stride * shapes.scales[:, None]  # (S, 1)
            width = (size / root).reshape(-1, 1).astype(np.float32)
            height = (size * root).reshape(-1, 1).astype(np.float32)
            overlap = _overlap(width, self.width, self.dx[level])
            overlap *= _overlap(height, self.height, self.dy[level])
            union = width * height + self.width * self.height - overlap
            np.maximum(best, (overlap / union).max(axis=0), out=best)
        return best


def _distances(
    middle: np.ndarray, center: np.ndarray, stride: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Return the distances along one axis to the nearest of ``counts`` (M, L) locations, (L, M)."""
    place = (middle[:, None] - center) / stride
    nearest = np.clip(np.round(place), 0, counts - 1)
    return np.ascontiguousarray((np.abs(place - nearest) * stride).T, dtype=np.float32)


def _overlap(anchor: np.ndarray, side: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the overlaps (S * Q, M) along one axis."""
    overlap = (anchor + side) / 2
    overlap -= distance
    np.minimum(overlap, np.minimum(anchor, side), out=overlap)
    return np.maximum(overlap, 0, out=overlap)


def search(data: AnchoredSet, weights: np.ndarray, start: Shapes, *, largest: float) -> Shapes:
    """
    Return the shapes that reach the objects best.

    Args:
        data: the objects, and a grid of any shapes.
        weights: (M,), weight of each object.
        start: shapes to start from; the result has as many.
        largest: largest scale.
    """
    from scipy.optimize import differential_evolution  # .3 s, for which no sweep should wait

    reach, num = Reach(data), len(start.scales)
    low = min(1.0, *start.scales)  # a smaller anchor would miss what lies between two locations
    steps = reach.strides[1:] / reach.strides[:-1]
    widest = np.log(min(steps, default=largest / low))
    # the smallest scale, the distances of the others from it, and the ratios
    bounds = [(np.log(low), np.log(largest)), *[(0, widest)] * (num - 1)]
    bounds += [(-np.log(MOST_ELONGATED), np.log(MOST_ELONGATED))] * len(start.ratios)

    def shapes_of(logs: np.ndarray) -> Shapes:
        scales = np.exp(logs[0] + np.append(0, np.sort(logs[1:num])))
        return Shapes(scales, np.sort(np.exp(logs[num:])))

    def cost(logs: np.ndarray) -> float:
        iou = reach.best_iou(shapes_of(logs))
        reached = ((iou - COUNTS_FROM) / (COUNTS_FULLY - COUNTS_FROM)).clip(0, 1)
        return -float((reached + BEYOND * iou) @ weights)

    scales = np.log(start.scales)
    first = np.concatenate([scales[:1], scales[1:] - scales[0], np.log(start.ratios)])
    first = np.clip(first, *np.transpose(bounds))
    result = differential_evolution(
        cost,
        bounds,
        x0=first,
        seed=0,
        maxiter=GENERATIONS,
        popsize=POPULATION,
        tol=1e-4,
        polish=False,
    )
    return shapes_of(result.x)
