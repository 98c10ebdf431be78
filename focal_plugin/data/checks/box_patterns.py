"""Rules for the boxes of a dataset together: another format, other units, or objects twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .findings import Findings

SLACK = 1.0
"""Number of pixels by which a box may reach beyond its image: exporters round."""

MANY = 0.05
"""Share of the boxes beyond their images above which each of them is reported."""

AS_CORNERS = 1 / 3
"""Share of boxes beyond their images if corners are read as sizes; about half are, in truth."""

MOST = 0.95
"""Share of boxes that must fit a format; a few are wrong in any format."""

MIN_BOXES = 3
"""Minimum number of boxes that tell a format."""


class Objects(NamedTuple):
    """
    The n valid boxes of objects in listed images; crowd regions are left out.

    Attributes:
        rows: (n,), the row of the annotation.
        boxes: (n, 4), [x, y, width, height].
        sizes: (n, 2), width and height of the image.
        images: (n,), the row of the image.
        categories: (n,), the row of the category.
    """

    rows: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    images: np.ndarray
    categories: np.ndarray


def check_box_patterns(
    objects: Objects, found: Findings, about_box: Callable[[int], dict[str, Any]]
) -> None:
    """
    Add what the boxes of a file show together.

    Args:
        objects: at least their boxes must be finite.
        about_box: maps the row of an annotation to the arguments of :meth:`Findings.add`.
    """
    if not len(objects.rows):
        return
    beyond = _check_format(objects, found)
    sizes = objects.boxes[:, 2:]
    tiny = (sizes <= 1).all(axis=1) & (objects.sizes > 2).all(axis=1)
    far = (objects.boxes[:, :2] + sizes > 2 * objects.sizes + SLACK).any(axis=1)
    reported = beyond if beyond.sum() > 1 and beyond.mean() > MANY else far
    found.add_each("box-beyond-image", objects.rows[reported], about_box)
    found.add_each("box-tiny", objects.rows[tiny], about_box)
    if tiny.mean() > 1 / 2:
        found.escalate("box-tiny")
    found.add_each("object-twice", _repeated(objects), about_box)


def _check_format(objects: Objects, found: Findings) -> np.ndarray:
    """Report boxes that fit as corners or as centers; return which reach beyond their image."""
    start, size, image = objects.boxes[:, :2], objects.boxes[:, 2:], objects.sizes
    beyond = ((start < -SLACK) | (start + size > image + SLACK)).any(axis=1)
    number = f"{int(beyond.sum())} of {len(beyond)} boxes reach beyond their image as sizes"
    if len(beyond) < MIN_BOXES:
        return beyond
    corners_fit = (start >= -SLACK) & (size > start) & (size <= image + SLACK)
    fit_as_corners = corners_fit.all(axis=1)
    fit_as_centers = (start - size / 2 >= -SLACK) & (start + size / 2 <= image + SLACK)
    if fit_as_corners.mean() >= MOST and beyond.mean() >= AS_CORNERS:
        fit = int(fit_as_corners.sum())
        found.add("boxes-are-corners", f"{number}; as [x1, y1, x2, y2], {fit} fit")
    elif fit_as_centers.all() and beyond.sum() > 1 and beyond.mean() > MANY:
        found.add("boxes-are-centers", f"{number}; as [center x, center y, width, height], all fit")
    return beyond


def _repeated(objects: Objects) -> np.ndarray:
    """Return the rows of objects with the image, class and box of an earlier one."""
    keys = np.column_stack([objects.images, objects.categories, objects.boxes])
    order = np.lexsort(keys.T)  # stable: of equal ones, the first of the file comes first
    same = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    return np.sort(objects.rows[order[1:][same]])
