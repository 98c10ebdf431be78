"""Rules for a dataset without a COCO JSON, which consists of Detectron2's dicts only."""

from __future__ import annotations

import os
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from ..coco_ids import is_id, wrong_ids
from .box_patterns import Objects, check_box_patterns
from .coco_rules import EMPTY, fit_float32, is_truth
from .findings import Findings, Report
from .labeling_rules import check_labeled_classes
from .pixels import check_a_few


def check_dicts(dicts: list[dict[str, Any]], *, num_classes: int | None) -> Report:
    """
    Apply the rules for image ids, image files, boxes and classes.

    Args:
        dicts: in Detectron2's standard format.
        num_classes: classes must be below it. None: unknown.
    """
    found = Findings()
    _check_images(dicts, found)
    check_labeled_classes(dicts, num_classes, found)
    annotated = [(image, x) for image in dicts for x in image.get("annotations", ())]
    for image, annotation in annotated:
        rule = fault_of_box(annotation)
        if rule is not None:
            about = f"bbox {annotation.get('bbox')}, bbox_mode {annotation.get('bbox_mode')!r}"
            found.add(rule, f"{_who(image)}: {about}", image_id=_id(image))
        if not is_truth(annotation.get("iscrowd", 0)):
            about = f"iscrowd {annotation['iscrowd']!r}"
            found.add("annotation-iscrowd", f"{_who(image)}: {about}", image_id=_id(image))
        category = annotation.get("category_id")
        is_class = isinstance(category, Integral) and int(category) >= 0
        if not is_class or (num_classes is not None and category not in range(num_classes)):
            last = "" if num_classes is None else num_classes - 1
            message = f"{_who(image)}: category_id {category!r}, expected 0..{last}"
            found.add("annotation-class", message, image_id=_id(image))
    _check_patterns(annotated, found)
    crowds = sum(bool(annotation.get("iscrowd")) for _, annotation in annotated)
    if len(annotated) == crowds and any("annotations" in image for image in dicts):
        rule = "only-crowds" if crowds else "no-objects"
        found.add(rule, f"{len(dicts)} images, {crowds} crowd regions")
    return found.report({"images": len(dicts), "annotations": len(annotated), "crowds": crowds})


def _check_images(dicts: list[dict[str, Any]], found: Findings) -> None:
    if not dicts:
        found.add("no-images", "the dataset is empty")
    for row in wrong_ids([_id(image) for image in dicts]):
        image_id = _id(dicts[row])
        found.add("image-id", f"image_id {image_id!r:.80} ({dicts[row].get('file_name')})")
    first: dict[Any, str] = {}
    for image in dicts:
        image_id, file_name = _id(image), str(image.get("file_name"))
        if is_id(image_id) and first.setdefault(image_id, file_name) != file_name:
            message = f"image id {image_id}: {first[image_id]}, {file_name}"
            found.add("image-id-twice", message, image_id=image_id)
        is_local = "file_name" in image and "://" not in file_name
        if is_local and not os.path.isfile(file_name):
            message = f"image {image_id}: file not found: {file_name}"
            found.add("image-missing", message, image_id=image_id)
    local = [
        (_who(image), _id(image), str(image["file_name"]), _size(image))
        for image in dicts
        if os.path.isfile(str(image.get("file_name")))
    ]
    check_a_few(local, found)


def fault_of_box(annotation: dict[str, Any]) -> str | None:
    """Return the rule that a box breaks, or None; a rotated box is not checked."""
    mode = annotation.get("bbox_mode")
    if mode == BoxMode.XYWHA_ABS:
        return None
    if mode not in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        return "box-mode"
    given: Any = annotation.get("bbox")
    is_box = isinstance(given, list | tuple | np.ndarray) and len(given) == 4
    if not is_box or not all(isinstance(number, Real) for number in given):
        return "box-malformed"
    box = np.array(given, dtype=np.float64)
    size = box[2:] - box[:2] if annotation["bbox_mode"] == BoxMode.XYXY_ABS else box[2:]
    return next((rule for rule, is_one in BOX_FAULTS.items() if is_one(box, size)), None)


def is_outside(annotation: dict[str, Any], image: dict[str, Any]) -> bool:
    """Return True for a valid box outside its image, whose size must be stated."""
    # In float64 like the rules for files; BoxMode.convert would round to float32.
    start, end = np.array(annotation["bbox"], dtype=np.float64).reshape(2, 2)
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:
        end = start + end
    size = (image["width"], image["height"])
    return bool((end <= 0).any() or (start >= size).any())


def _check_patterns(
    annotated: list[tuple[dict[str, Any], dict[str, Any]]], found: Findings
) -> None:
    """Apply the rules for all boxes together to the valid ones in images of known size."""
    valid = [
        row
        for row, (image, x) in enumerate(annotated)
        if all(isinstance(image.get(key), Real) for key in ("width", "height"))
        and not x.get("iscrowd")
        and x.get("bbox_mode") in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        and fault_of_box(x) is None
    ]
    chosen = [annotated[row] for row in valid]
    boxes = [
        BoxMode.convert(list(map(float, x["bbox"])), BoxMode(x["bbox_mode"]), BoxMode.XYWH_ABS)
        for _, x in chosen
    ]
    numbers: dict[int, int] = {}
    objects = Objects(
        np.array(valid, dtype=np.int64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array([(image["width"], image["height"]) for image, _ in chosen]).reshape(-1, 2),
        np.array([numbers.setdefault(id(image), len(numbers)) for image, _ in chosen]),
        np.array([hash(str(x.get("category_id"))) for _, x in chosen]),
    )

    def about_box(row: int) -> dict[str, Any]:
        image, annotation = annotated[row]
        message = f"{_who(image)}: bbox {annotation['bbox']}"
        return {"message": message, "image_id": _id(image)}

    check_box_patterns(objects, found, about_box)


BOX_FAULTS: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {
    "box-nan": lambda box, _: bool(np.isnan(box).any()),
    "box-infinite": lambda box, size: not fit_float32(np.array([[*box[:2], *size]])).all(),
    "box-negative": lambda _, size: bool((size < 0).any()),
    "box-empty": lambda _, size: bool((size <= EMPTY).any()),
}
"""Predicates on a box, its width and its height; the first that is true names the rule."""


def _id(image: dict[str, Any]) -> Any:
    return image.get("image_id")


def _size(image: dict[str, Any]) -> tuple[Any, Any] | None:
    """Return the stated width and height, or None, as an image need not state them."""
    return (image["width"], image["height"]) if {"width", "height"} <= image.keys() else None


def _who(image: dict[str, Any]) -> str:
    return f"image {_id(image)} ({image.get('file_name')})"
