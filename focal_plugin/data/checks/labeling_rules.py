"""Rules for the categories with which an image is labeled, see `labeled_categories`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ...names import shown
from ..coco_ids import Id, is_id
from ..labeled_categories import FIELDS, LABELED_CLASSES, rows_of_partly_labeled
from .findings import Findings


def check_labeled_categories(
    images: Sequence[dict[str, Any]], categories: Sequence[dict[str, Any]], found: Findings
) -> None:
    """Report the images of a COCO file that state their labeled categories, and unknown ids."""
    stating = rows_of_partly_labeled(images)
    known = {x["id"] for x in categories if is_id(x.get("id"))}
    faults = {row: _fault(images[row], known) for row in stating}

    def about(row: int) -> dict[str, Any]:
        image = images[row]
        where = f"image {shown(image.get('id'))} ({shown(image.get('file_name'))})"
        stated = ", ".join(f"{x} {shown(image[x])}" for x in FIELDS if x in image)
        return {"message": f"{where}: {faults[row] or stated}", "image_id": image.get("id")}

    found.add_each("labeled-categories", [row for row in stating if faults[row]], about)
    found.add_each("image-partly-labeled", [row for row in stating if not faults[row]], about)


def _fault(image: dict[str, Any], known: Collection[Id]) -> str:
    for field in FIELDS:
        ids = image.get(field, [])
        if not isinstance(ids, list):
            return f"{field} {shown(ids)} is not a list"
        unknown = [x for x in ids if not is_id(x) or x not in known]
        if unknown:
            return f"{field} has the unknown id {shown(unknown[0])}"
    return ""


def check_labeled_classes(
    dicts: Sequence[dict[str, Any]], num_classes: int | None, found: Findings
) -> None:
    """
    Report dataset dicts whose labeled classes are not a list of classes.

    Args:
        num_classes: K. None: unknown.
    """
    for image in dicts:
        labeled = image.get(LABELED_CLASSES, [])
        if not isinstance(labeled, list | tuple) or not all(
            type(x) is int and x >= 0 and (num_classes is None or x < num_classes) for x in labeled
        ):
            where = f"image {shown(image.get('image_id'))} ({shown(image.get('file_name'))})"
            message = f"{where}: {LABELED_CLASSES} {shown(labeled)}"
            found.add("labeled-categories", message, image_id=image.get("image_id"))
