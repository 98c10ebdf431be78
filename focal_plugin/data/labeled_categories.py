"""
Partly labeled images: images of a COCO file in which only some categories were searched.

An image may state `"labeled_categories"`, the ids of the categories of which every object is
annotated. LVIS states the same in two lists: `"neg_category_ids"` are searched and absent, and
`"not_exhaustive_category_ids"` are present, but not all annotated (arXiv:1908.03195 section 3). An
image without such a field is labeled with every category.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

LABELED = "labeled_categories"
NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"
FIELDS = (LABELED, NEGATIVE, NOT_EXHAUSTIVE)

LABELED_CLASSES = "labeled_classes"
"""Key of a dataset dict: the labeled classes, as indices. Without it, every class is labeled."""


def rows_of_partly_labeled(images: Sequence[Mapping[str, Any]]) -> list[int]:
    """
    Return the rows of the images of a COCO file that state their labeled categories.

    LVIS's two lists count unless all of them are empty. Converters write empty ones into files of
    every kind.
    """
    of_lvis = (NEGATIVE, NOT_EXHAUSTIVE)
    is_lvis = any(image.get(field, []) != [] for image in images for field in of_lvis)
    fields = FIELDS if is_lvis else (LABELED,)
    return [row for row, image in enumerate(images) if any(field in image for field in fields)]


def labeled_ids(image: Mapping[str, Any], annotated: Collection[Any]) -> list[Any]:
    """
    Return the ids of the categories with which an image is labeled completely.

    Args:
        image: image of a COCO file that states them, in fields that are lists of ids.
        annotated: category ids of its annotations.
    """
    if LABELED in image:
        return list(dict.fromkeys(image[LABELED]))
    not_all = set(image.get(NOT_EXHAUSTIVE, ()))
    return [x for x in dict.fromkeys([*annotated, *image.get(NEGATIVE, ())]) if x not in not_all]


def add_labeled_classes(
    dicts: Sequence[dict[str, Any]], content: Mapping[str, Any], category_ids: Sequence[Any]
) -> None:
    """
    Add :data:`LABELED_CLASSES` to the dicts of the images that state their labeled categories.

    Args:
        dicts: in Detectron2's format, with the image ids of ``content``; changed in place.
        content: content of the COCO file, without errors.
        category_ids: category id of each class.
    """
    class_of = {category_id: index for index, category_id in enumerate(category_ids)}
    images = content["images"]
    stating = {images[row]["id"]: images[row] for row in rows_of_partly_labeled(images)}
    annotated: dict[Any, list[Any]] = {image_id: [] for image_id in stating}
    for annotation in content["annotations"]:
        if annotation["image_id"] in annotated:
            annotated[annotation["image_id"]].append(annotation["category_id"])
    for record in dicts:
        image_id = record["image_id"]
        if image_id in stating:
            ids = labeled_ids(stating[image_id], annotated[image_id])
            record[LABELED_CLASSES] = sorted(class_of[x] for x in ids)


def completely_labeled(image: dict[str, Any]) -> dict[str, Any]:
    """Return a dataset dict without its labeled classes."""
    return {key: value for key, value in image.items() if key != LABELED_CLASSES}
