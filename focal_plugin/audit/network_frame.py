"""
Images and boxes in pixels of the network's input.

Shape shorthand:
    I: number of images
    M: number of annotations
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge

from .object_table import ObjectTable

NONEMPTY = 1e-5
"""Sides from which on Detectron2's mapper keeps a box, exclusive."""


class FrameSize(NamedTuple):
    """
    Size of the network's input.

    Attributes:
        short: shorter side in pixels; 0: images keep their size.
        longest: maximum of the longer side, in pixels.
    """

    short: int
    longest: int


class NetworkFrame(NamedTuple):
    """
    Images and annotations in pixels of the network's input.

    Attributes:
        size: what the images are resized to.
        image_sizes: (I, 2), int64, height and width.
        boxes: (M, 4), float32, XYXY, clipped to the image; an empty box that the mapper drops is 0.
    """

    size: FrameSize
    image_sizes: np.ndarray
    boxes: np.ndarray

    @property
    def sides(self) -> np.ndarray:
        """Square root of each box's area, (M,), float64."""
        width, height = (self.boxes[:, 2:] - self.boxes[:, :2]).astype(np.float64).T
        return np.sqrt(width * height)


def frame_at_test(cfg: CfgNode) -> FrameSize:
    """Return the size of a test image."""
    return FrameSize(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)


def frames_at_training(cfg: CfgNode) -> tuple[FrameSize, ...]:
    """Return the smallest and the largest size of a training image; one if they are equal."""
    sizes = {min(cfg.INPUT.MIN_SIZE_TRAIN), max(cfg.INPUT.MIN_SIZE_TRAIN)}
    return tuple(FrameSize(short, cfg.INPUT.MAX_SIZE_TRAIN) for short in sorted(sizes))


def to_network_frame(table: ObjectTable, size: FrameSize) -> NetworkFrame:
    """
    Resize a table as `ResizeShortestEdge` and Detectron2's mapper resize its images.

    Args:
        table: pixels of the files.
        size: the size of the network's input.
    """
    original, inverse = np.unique(table.image_sizes, axis=0, return_inverse=True)
    resized = np.array([_resized(h, w, size) for h, w in original.tolist()], dtype=np.int64)
    inverse = inverse.reshape(-1)
    resized = resized.reshape(-1, 2)[inverse]
    of_box = resized[table.image]
    scale = of_box / table.image_sizes[table.image]  # height, width
    boxes = table.boxes * scale[:, [1, 0, 1, 0]]
    boxes = np.minimum(boxes.clip(min=0), of_box[:, [1, 0, 1, 0]]).astype(np.float32)
    is_empty = ~((boxes[:, 2:] - boxes[:, :2]) > NONEMPTY).all(axis=1)
    boxes[is_empty] = 0
    return NetworkFrame(size, resized, boxes)


def _resized(height: int, width: int, size: FrameSize) -> tuple[int, int]:
    if size.short == 0:
        return height, width
    return ResizeShortestEdge.get_output_shape(height, width, size.short, size.longest)
