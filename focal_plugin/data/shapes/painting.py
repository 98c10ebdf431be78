"""
Painting of one image of shapes; see :mod:`focal_plugin.data.shapes.dataset` for the dataset.

Random numbers come from `RandomState.random_sample` alone, whose stream NumPy has frozen. Pixels
come from arithmetic that IEEE 754 defines exactly (no sine, no power, no matrix product). The same
spec therefore gives the same pixels on every machine and with every NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

VERSION = 1
"""Version in the folder's name; it increases whenever the same spec would draw other bytes."""

CLASSES = ("disc", "square", "triangle", "plus", "crescent")
FREQUENCIES = (0.40, 0.26, 0.17, 0.11, 0.06)
"""Share of each class among the objects, a long-tailed distribution."""

COLORS = ((200, 70, 60), (70, 100, 210), (220, 190, 70), (70, 170, 90), (180, 90, 190))
"""Mean RGB color of each class. Its look-alikes have the same color: the color tells the class, and
only the form tells whether a shape is an object."""
COLOR_SPREAD = 40

LOOKALIKES = ("outline", "fragment", "squashed")
MAX_OBJECT_IOU = 0.1
CROWD_MEMBERS = (8, 14)
LARGEST_TURN = 0.2
"""Largest tan(angle / 2) of a shape: shapes are rotated by up to 22 degrees."""
SUPERSAMPLING = 2
FARTHEST_POINT = 1.2
"""Largest extent of a shape in units of its radius: a square's corner is at 0.84 * sqrt(2)."""

# Outward normals of a triangle's sides; 0.866... = sqrt(3) / 2
TRIANGLE_NORMALS = ((0.0, 1.0), (0.8660254, -0.5), (-0.8660254, -0.5))


@dataclass(frozen=True)
class ShapesSpec:
    """
    Specification of a dataset of shapes.

    Args:
        images: number of images.
        image_size: width and height, pixels, at least 32.
        objects: minimum and maximum number of objects in an image that has any.
        distractors: minimum and maximum number of look-alikes in an image; more of them increase
            the imbalance.
        radius: minimum and maximum radius of a shape, pixels; small shapes are more frequent.
        empty: share of images without an object.
        crowds: share of images with a crowd: many tiny objects under one `iscrowd` box.
        seed: random seed, in [0, 2**32).
    """

    images: int = 1000
    image_size: int = 128
    objects: tuple[int, int] = (1, 3)
    distractors: tuple[int, int] = (6, 12)
    radius: tuple[float, float] = (8.0, 24.0)
    empty: float = 0.1
    crowds: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("objects", "distractors", "radius"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} must satisfy 0 <= min <= max, got {low} and {high}")
        for name in ("empty", "crowds"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}")
        if self.images < 1 or self.image_size < 32:
            raise ValueError(
                f"images must be >= 1 and image_size >= 32, got {self.images} and {self.image_size}"
            )
        if 2 * self.radius[1] >= self.image_size or self.radius[0] < 2:
            raise ValueError(
                f"radius must be in [2, image_size / 2), got {self.radius} with image_size "
                f"{self.image_size}"
            )


class _Random:
    """Random numbers from one frozen stream."""

    def __init__(self, *seed: int) -> None:
        self._state = np.random.RandomState(list(seed))

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None) -> Any:
        return low + (high - low) * self._state.random_sample(size)

    def integer(self, low: int, high: int) -> int:
        """Return an integer in [low, high], both included."""
        return low + int(self._state.random_sample() * (high - low + 1))

    def choice(self, shares: tuple[float, ...]) -> int:
        """Return an index drawn with the given probabilities."""
        point, total = self._state.random_sample(), 0.0
        for index, share in enumerate(shares):
            total += share
            if point < total:
                return index
        return len(shares) - 1


@dataclass(frozen=True)
class _Shape:
    """A shape with its position, rotation and form."""

    kind: str  # one of CLASSES
    form: str  # "solid" or one of LOOKALIKES
    x: float
    y: float
    radius: float
    turn: tuple[float, float]  # cosine and sine
    aspect: float
    cut: tuple[float, float]  # direction of a fragment's cut

    def coverage(self, size: int) -> tuple[slice, slice, np.ndarray]:
        """
        Compute how much of each pixel the shape covers.

        Returns:
            rows and columns of the image region around the shape, and the coverage of each pixel
            there, in [0, 1].
        """
        reach = int(self.radius * FARTHEST_POINT) + 2
        x_low, x_high = max(int(self.x) - reach, 0), min(int(self.x) + reach + 1, size)
        y_low, y_high = max(int(self.y) - reach, 0), min(int(self.y) + reach + 1, size)
        steps = SUPERSAMPLING
        x = x_low + (np.arange((x_high - x_low) * steps) + 0.5) / steps - self.x
        y = y_low + (np.arange((y_high - y_low) * steps) + 0.5) / steps - self.y
        x, y = x[None, :] / self.radius, y[:, None] / self.radius
        cosine, sine = self.turn
        u, v = cosine * x + sine * y, (cosine * y - sine * x) / self.aspect
        fine = self._contains(u, v).astype(np.float64)
        fine = fine.reshape(y_high - y_low, steps, x_high - x_low, steps)
        return slice(y_low, y_high), slice(x_low, x_high), fine.sum(axis=(1, 3)) / steps**2

    def _contains(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        inside = _INSIDE[self.kind](u, v)
        if self.form == "outline":
            inside &= ~_INSIDE[self.kind](u / 0.7, v / 0.7)
        elif self.form == "fragment":
            inside &= self.cut[0] * u + self.cut[1] * v > 0.0
        return inside


def _inside_triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    (a, b), (c, d), (e, f) = TRIANGLE_NORMALS
    return (a * u + b * v <= 0.56) & (c * u + d * v <= 0.56) & (e * u + f * v <= 0.56)


_INSIDE = {
    "disc": lambda u, v: u * u + v * v <= 1,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 0.84,
    "triangle": _inside_triangle,
    "plus": lambda u, v: (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 1),
    "crescent": lambda u, v: (u * u + v * v <= 1) & ((u - 0.55) * (u - 0.55) + v * v > 0.6),
}


def draw_image(spec: ShapesSpec, index: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """
    Draw image ``index`` of a dataset, which does not depend on the other images.

    Returns:
        (H, W, 3) uint8 RGB, and its annotations: "category_id" (from 1), "bbox" (x, y, width,
        height, integers), "iscrowd".
    """
    random = _Random(VERSION, spec.seed, index)
    canvas = _background(random, spec.image_size)
    annotations: list[dict[str, Any]] = []
    has_objects = random.uniform() >= spec.empty
    has_crowd = random.uniform() < spec.crowds

    for _ in range(random.integer(*spec.distractors)):
        form = LOOKALIKES[random.integer(0, len(LOOKALIKES) - 1)]
        _paint(random, canvas, _random_shape(random, spec, form))
    if has_crowd:
        annotations.append(_paint_crowd(random, canvas, spec))
    for _ in range(random.integer(*spec.objects) if has_objects else 0):
        _paint_object(random, canvas, spec, annotations)
    return np.floor(np.clip(canvas, 0, 255) + 0.5).astype(np.uint8), annotations


def _background(random: _Random, size: int) -> np.ndarray:
    """Draw a color, a coarse interpolated texture and fine noise."""
    color = random.uniform(60, 190, 3)
    cells = random.integer(3, 9)
    grid = random.uniform(-40, 40, (cells + 1, cells + 1, 3))
    place = np.arange(size) * (cells / size)
    cell = place.astype(np.int64)
    part = place - cell
    rows = grid[cell] + (grid[cell + 1] - grid[cell]) * part[:, None, None]
    texture = rows[:, cell] + (rows[:, cell + 1] - rows[:, cell]) * part[None, :, None]
    return color + texture + random.uniform(-14, 14, (size, size, 1))


def _random_shape(random: _Random, spec: ShapesSpec, form: str, kind: str | None = None) -> _Shape:
    low, high = spec.radius
    share = random.uniform()
    radius = low + (high - low) * share * share
    turn = _direction(random.uniform(-LARGEST_TURN, LARGEST_TURN))
    cut = _direction(random.uniform(-1, 1))
    aspect = random.uniform(0.85, 1.0)
    return _Shape(
        kind=kind or CLASSES[random.choice(FREQUENCIES)],
        form=form,
        x=random.uniform(radius, spec.image_size - radius),
        y=random.uniform(radius, spec.image_size - radius),
        radius=radius,
        turn=turn,
        aspect=aspect * 0.4 if form == "squashed" else aspect,
        cut=cut if random.uniform() < 0.5 else (-cut[0], -cut[1]),
    )


def _direction(t: float) -> tuple[float, float]:
    """Return (cosine, sine) of an angle from t = tan(angle / 2), without calling either."""
    return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)


def _paint(random: _Random, canvas: np.ndarray, shape: _Shape) -> None:
    rows, columns, coverage = shape.coverage(len(canvas))
    beneath = canvas[rows, columns]
    color = np.array(COLORS[CLASSES.index(shape.kind)])
    color = color + random.uniform(-COLOR_SPREAD, COLOR_SPREAD, 3)
    # Change a color that is too close to the background, so that every shape is visible.
    contrast = color - beneath.mean(axis=(0, 1))
    if np.max(abs(contrast)) < 45:
        color = color + np.where(contrast >= 0, 45, -45)
    color = color + random.uniform(-10, 10, (*coverage.shape, 1))
    canvas[rows, columns] = beneath + (color - beneath) * coverage[:, :, None]


def _box(shape: _Shape, size: int) -> list[int]:
    """Return the tight box (x, y, width, height) around pixels that are at least half covered."""
    rows, columns, coverage = shape.coverage(size)
    y, x = np.nonzero(coverage >= 0.5)
    x_low, y_low = int(x.min()), int(y.min())
    width, height = int(x.max()) + 1 - x_low, int(y.max()) + 1 - y_low
    return [columns.start + x_low, rows.start + y_low, width, height]


def _paint_object(
    random: _Random, canvas: np.ndarray, spec: ShapesSpec, annotations: list[dict[str, Any]]
) -> None:
    """Paint one object where it hides no other; a full image stays unchanged."""
    kind = CLASSES[random.choice(FREQUENCIES)]
    for _ in range(20):
        shape = _random_shape(random, spec, "solid", kind)
        box = _box(shape, spec.image_size)
        if all(_iou(box, other["bbox"]) <= MAX_OBJECT_IOU for other in annotations):
            _paint(random, canvas, shape)
            annotations.append(_annotation(kind, box))
            return


def _paint_crowd(random: _Random, canvas: np.ndarray, spec: ShapesSpec) -> dict[str, Any]:
    kind = CLASSES[random.choice(FREQUENCIES)]
    tiny = ShapesSpec(image_size=spec.image_size, radius=(3.0, 4.0))
    extent = spec.image_size // 3
    x, y = random.uniform(0, spec.image_size - extent - 1, 2)
    boxes = []
    for _ in range(random.integer(*CROWD_MEMBERS)):
        shape = _random_shape(random, tiny, "solid", kind)
        shape = replace(
            shape,
            x=x + 4 + shape.x * (extent - 8) / spec.image_size,
            y=y + 4 + shape.y * (extent - 8) / spec.image_size,
        )
        _paint(random, canvas, shape)
        boxes.append(_box(shape, spec.image_size))
    x_low, y_low = min(box[0] for box in boxes), min(box[1] for box in boxes)
    x_high, y_high = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
    return _annotation(kind, [x_low, y_low, x_high - x_low, y_high - y_low], iscrowd=1)


def _annotation(kind: str, box: list[int], iscrowd: int = 0) -> dict[str, Any]:
    return {
        "category_id": CLASSES.index(kind) + 1,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": iscrowd,
    }


def _iou(a: list[int], b: list[int]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    return overlap / (a[2] * a[3] + b[2] * b[3] - overlap)
