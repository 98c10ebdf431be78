"""
Images that show the same picture in different files: recompressed, resized or recolored.

Two images are near copies if their thumbnails correlate. Small thumbnails find the best match of
an image, and larger ones confirm it.

Shape shorthand:
    F: number of files
    D: pixels of a small thumbnail
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from .file_copies import reason_of

SMALL, LARGE = 12, 64
"""Sides of the thumbnails, in pixels."""

SMALL_CORRELATION, LARGE_CORRELATION = 0.95, 0.98
"""
Least correlation of near copies.

Blood-cell images of different fields have at most .81 and .62. Copies at a JPEG quality of 10, at
a third of the size, squeezed to a square, or 30% darker have at least .99 in both.
"""

FLAT = 2.0
"""Standard deviation in gray levels below which a thumbnail shows nothing that could match."""

ROWS, COLUMNS = 1024, 8192
"""Images compared in one product of matrices."""


class Thumbnails(NamedTuple):
    """
    Small thumbnails of some images.

    Attributes:
        files: F paths.
        pixels: (F, D), float32, gray levels with mean 0 and norm 1; 0 for an image that shows
            nothing or cannot be decoded.
        problems: file that cannot be decoded -> the reason.
    """

    files: list[str]
    pixels: np.ndarray
    problems: dict[str, str]


def read_thumbnails(files: Sequence[str]) -> Thumbnails:
    """Decode image files; a terminal shows a progress bar."""
    pixels = np.zeros((len(files), SMALL * SMALL), dtype=np.float32)
    problems = {}

    def read(file: str) -> np.ndarray | str:
        try:
            return _centered(file, SMALL)
        except Exception as error:  # each decoder raises its own
            return reason_of(error)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = tqdm(pool.map(read, files), total=len(files), unit="images", disable=None)
        for index, result in enumerate(results):
            if isinstance(result, str):
                problems[files[index]] = result
            else:
                pixels[index] = result
    return Thumbnails(list(files), pixels, problems)


def near_copies_of(images: Thumbnails, others: Thumbnails) -> list[tuple[str, str]]:
    """Return the images that have a near copy among others, each with its best match."""
    return _confirmed(images, others, _best_matches(images.pixels, others.pixels))


def near_copies_within(images: Thumbnails) -> list[tuple[str, str]]:
    """Return the images that have a near copy among those before them, each with its best match."""
    return _confirmed(images, images, _best_matches(images.pixels))


def _confirmed(
    images: Thumbnails, others: Thumbnails, matches: Iterable[tuple[int, int]]
) -> list[tuple[str, str]]:
    pairs = ((images.files[image], others.files[match]) for image, match in matches)
    return [pair for pair in pairs if _are_alike(*pair)]


def _are_alike(one: str, other: str) -> bool:
    return float(_centered(one, LARGE) @ _centered(other, LARGE)) >= LARGE_CORRELATION


def _centered(file: str, side: int) -> np.ndarray:
    """Return the gray levels of a thumbnail, (side * side,), with mean 0 and norm 1, or all 0."""
    with Image.open(file) as image:
        image.draft("L", (2 * side, 2 * side))  # a JPEG is decoded at a fraction of its size
        gray = ImageOps.exif_transpose(_eight_bits(image)).convert("L")
        small = gray.resize((side, side), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float32).reshape(-1)
    values = values - values.mean()
    return values / np.linalg.norm(values) if values.std() >= FLAT else np.zeros_like(values)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image whose levels are scaled to 0..255 if they have more bits."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    levels = np.nan_to_num(np.asarray(image, dtype=np.float64))
    span = np.ptp(levels) or 1
    return Image.fromarray(((levels - levels.min()) * (255 / span)).astype(np.uint8))


def _best_matches(
    images: np.ndarray, others: np.ndarray | None = None
) -> Iterator[tuple[int, int]]:
    """Yield (image, match) for each image that correlates with another, or with an earlier one."""
    columns = images if others is None else others
    for start in range(0, len(images), ROWS):
        rows = images[start : start + ROWS]
        best = np.full(len(rows), SMALL_CORRELATION, dtype=np.float32)
        match = np.full(len(rows), -1)
        stop = start + len(rows) if others is None else len(columns)
        for left in range(0, stop, COLUMNS):
            correlation = rows @ columns[left : min(left + COLUMNS, stop)].T
            if others is None:
                correlation = np.tril(correlation, start - left - 1)  # 0 for later images
            nearest = correlation.argmax(axis=1)
            value = correlation[np.arange(len(rows)), nearest]
            match = np.where(value > best, left + nearest, match)
            best = np.maximum(best, value)
        found = np.flatnonzero(match >= 0)
        yield from zip((start + found).tolist(), match[found].tolist(), strict=True)
