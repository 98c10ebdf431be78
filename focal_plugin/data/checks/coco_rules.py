"""
Rules for the content of a COCO annotation file. They do not read the images.

The file may hold any JSON. Each value is used only after a check of its type. For speed, the
annotations are stored in columns (lists and arrays), with rows in the order of the file.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from ..coco_ids import Id, is_id, kind_of, wrong_ids
from ..segmentations import kind_of_segmentation
from .box_patterns import Objects, check_box_patterns
from .findings import Findings
from .labeling_rules import check_labeled_categories

LISTS = ("images", "annotations", "categories")

EMPTY = 1e-5
"""Minimum size of a box: Detectron2 drops a box whose width or height is not larger."""

MAX_FLOAT32 = float(np.finfo(np.float32).max)
"""Largest finite number of a box, which Detectron2 stores as float32."""

MAX_SIZE = 2**31
"""Upper bound of an image's width and height (exclusive)."""

MAX_AREA = 1e10
"""Upper bound of the areas that pycocotools evaluates."""

MIN_FILLED = 1e-3
"""Minimum share of its box that a mask is expected to fill."""

NONE = -1
"""Row of an image or a category that is not listed."""


class ListedImage(NamedTuple):
    """An image with a valid id, file name and size."""

    image_id: Id
    file_name: str
    width: float
    height: float


class Counts(NamedTuple):
    """
    Number of objects in listed images; crowd regions do not count.

    Attributes:
        per_image: by image id; images without objects are left out.
        per_class: in the order of the classes.
    """

    per_image: dict[Any, int]
    per_class: list[int]


class Content(NamedTuple):
    """
    Result of the rules for one file.

    Attributes:
        findings: in the order of the rules.
        images: the images that have an id, a file name and a size.
        facts: counts and classes; see :mod:`focal_plugin.data.checks.facts`.
        counts: None if the file does not state them.
    """

    findings: Findings
    images: list[ListedImage]
    facts: dict[str, Any]
    counts: Counts | None = None


def check_content(content: Any, *, may_repeat_annotations: bool = False) -> Content:
    """
    Apply all rules.

    Args:
        content: parsed JSON.
        may_repeat_annotations: accept annotation ids that are not unique.
    """
    found = Findings()
    if not isinstance(content, dict):
        found.add("json-structure", f"the JSON is {_kind(content)}, not an object")
        return Content(found, [], {})
    lists = {key: _objects(content, key, found) for key in LISTS}
    if found.counts["json-structure"]:
        return Content(found, [], {})
    images, annotations, categories = (lists[key] for key in LISTS)
    _check_categories(categories, found)
    listed = _check_images(images, found)
    check_labeled_categories(images, categories, found)
    columns = _check_annotations(
        annotations, images, categories, found, may_repeat=may_repeat_annotations
    )
    _check_boxes(columns, images, found)
    _check_objects(columns, images, annotations, found)
    return Content(
        found,
        listed,
        _facts(images, categories, columns, found),
        _counts(images, categories, columns, found),
    )


def _objects(content: dict[str, Any], key: str, found: Findings) -> list[dict[str, Any]]:
    if key not in content:
        rule = "no-annotations" if key == "annotations" else "json-structure"
        found.add(rule, f'there is no "{key}"')
        return []
    entries = content[key]
    if not isinstance(entries, list):
        found.add("json-structure", f'"{key}" is {_kind(entries)}, not a list')
        return []
    if not entries and key != "annotations":
        found.add(f"no-{key}", f'"{key}" is empty')
    if set(map(type, entries)) - {dict}:
        wrong = [row for row, entry in enumerate(entries) if not isinstance(entry, dict)]
        found.add_each(
            "json-structure",
            wrong,
            lambda row: {"message": f'entry {row} of "{key}" is {_kind(entries[row])}'},
        )
    return entries


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")


def _check_categories(categories: list[dict[str, Any]], found: Findings) -> None:
    ids, without_id = _ids(categories, "id")
    names = [category.get("name") for category in categories]
    nameless = [row for row, name in enumerate(names) if not isinstance(name, str) or not name]
    wrong = sorted({*without_id, *nameless})
    found.add_each(
        "category-malformed",
        wrong,
        lambda row: {
            "message": f"id {_given(categories[row].get('id'))}, name {_given(names[row])}"
        },
    )
    if wrong:
        return
    for category_id, rows in _repeated(ids):
        who = ", ".join(repr(names[row]) for row in rows)
        found.add("category-id-twice", f"id {category_id}: {who}")
    for name, rows in _repeated(names):
        who = ", ".join(str(ids[row]) for row in rows)
        found.add("category-name-twice", f"{name!r}: ids {who}")
    if categories and set(ids) != set(range(1, len(ids) + 1)):
        first = ", ".join(str(x) for x in sorted(ids)[:10]) + (", ..." if len(ids) > 10 else "")
        found.add("category-gaps", f"{len(ids)} categories with the ids {first}")


def _check_images(images: list[dict[str, Any]], found: Findings) -> list[ListedImage]:
    """Return the images without a finding."""
    ids, wrong = _ids(images, "id")
    names: list[Any] = [image.get("file_name") for image in images]
    sizes: list[tuple[Any, Any]] = [(image.get("width"), image.get("height")) for image in images]
    wrong_names = [
        row for row, name in enumerate(names) if not isinstance(name, str) or not name.strip()
    ]
    wrong_sizes = [row for row, size in enumerate(sizes) if not all(map(_is_size, size))]

    def about(row: int, message: str) -> dict[str, Any]:
        where = f"image {_given(images[row].get('id'))} ({_shown(names[row])})"
        return {"message": f"{where}: {message}", "image_id": ids[row]}

    found.add_each("image-id", wrong, lambda row: about(row, f"entry {row} of the list"))
    found.add_each(
        "image-file-name", wrong_names, lambda row: about(row, f"entry {row} of the list")
    )
    found.add_each(
        "image-size",
        wrong_sizes,
        lambda row: about(row, f"width {_given(sizes[row][0])}, height {_given(sizes[row][1])}"),
    )
    for image_id, rows in _repeated(ids):
        listed = ", ".join(_shown(names[row]) for row in rows)
        found.add("image-id-twice", f"image id {image_id}: {listed}", image_id=image_id)
    unnamed = {*wrong_names, *wrong}
    files = [None if row in unnamed else name for row, name in enumerate(names)]
    for name, rows in _repeated(files):
        who = ", ".join(str(ids[row]) for row in rows)
        found.add("image-file-twice", f"{name}: images {who}", image_id=ids[rows[1]])
    left_out = {*unnamed, *wrong_sizes}
    return [
        ListedImage(ids[row], name, *sizes[row])
        for row, name in enumerate(names)
        if row not in left_out
    ]


class _Columns(NamedTuple):
    """
    One row for each annotation.

    Attributes:
        ids: None where the id is invalid.
        images: int64, the row of the image; NONE where the image is not listed.
        categories: int64, the row of the category; NONE where the category is not listed.
        crowd: bool.
        boxes: (n, 4) float64, [x, y, width, height]; 0 where `malformed`.
        malformed: bool.
        raw: the annotations.
        raw_images: the images.
    """

    ids: list[Any]
    images: np.ndarray
    categories: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    malformed: np.ndarray
    raw: list[dict[str, Any]]
    raw_images: list[dict[str, Any]]

    def about(self, row: int, message: str) -> dict[str, Any]:
        """Return the keyword arguments of `Findings.add`."""
        annotation = self.raw[row]
        annotation_id, image_id = annotation.get("id"), annotation.get("image_id")
        where = f"annotation {_given(annotation_id)} of image {_given(image_id)}"
        if self.images[row] != NONE:
            where += f" ({_shown(self.raw_images[self.images[row]].get('file_name'))})"
        ids = {"image_id": image_id, "annotation_id": annotation_id}
        return {"message": f"{where}: {message}", **ids}

    def about_box(self, row: int) -> dict[str, Any]:
        annotation = self.raw[row]
        return self.about(
            row, f"bbox {_given(annotation['bbox'])}" if "bbox" in annotation else "bbox missing"
        )


def _check_annotations(
    annotations: list[dict[str, Any]],
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    found: Findings,
    *,
    may_repeat: bool,
) -> _Columns:
    ids, wrong = _ids(annotations, "id")
    boxes, malformed = _boxes(annotations)
    columns = _Columns(
        ids,
        _rows_in(annotations, "image_id", images),
        _rows_in(annotations, "category_id", categories),
        _are_set(annotations, "iscrowd"),
        boxes,
        malformed,
        annotations,
        images,
    )

    def one_of_list(row: int) -> dict[str, Any]:
        return columns.about(row, f"entry {row} of the list")

    found.add_each("annotation-id", wrong, one_of_list)
    found.add_each("annotation-id-zero", [r for r, x in enumerate(ids) if x == 0], one_of_list)
    if not may_repeat:
        for annotation_id, rows in _repeated(ids):
            on = ", ".join(_shown(annotations[row].get("image_id")) for row in rows)
            message = f"annotation id {annotation_id}: on images {on}"
            found.add("annotation-id-twice", message, annotation_id=annotation_id)
    legal = {kind_of(image.get("id")) for image in images}
    unlisted = np.flatnonzero(columns.images == NONE).tolist()
    kinds = {row: kind_of(annotations[row].get("image_id")) for row in unlisted}
    nowhere = [row for row, kind in kinds.items() if kind is None or kind not in legal]
    lost = [row for row in kinds if row not in set(nowhere)]
    found.add_each("annotation-image-id", nowhere, one_of_list)
    found.add_each("annotation-without-image", lost, one_of_list)
    found.add_each(
        "annotation-category",
        np.flatnonzero(columns.categories == NONE),
        lambda row: columns.about(
            row, f"category_id {_given(annotations[row].get('category_id'))}"
        ),
    )
    found.add_each(
        "annotation-iscrowd",
        [row for row, x in enumerate(annotations) if not is_truth(x.get("iscrowd", 0))],
        lambda row: columns.about(row, f"iscrowd {_given(annotations[row]['iscrowd'])}"),
    )
    found.add_each(
        "segmentation-unusable",
        rows_of_unusable(annotations),
        lambda row: columns.about(row, f"segmentation {_given(annotations[row]['segmentation'])}"),
    )
    found.add_each(
        "annotation-ignore",
        [row for row, x in enumerate(annotations) if x.get("ignore", 0) != 0],
        lambda row: columns.about(row, f"ignore {_given(annotations[row]['ignore'])}"),
    )
    found.add_each(
        "annotation-area",
        _without_area(annotations),
        lambda row: columns.about(row, _without(annotations[row])),
    )
    return columns


def _check_boxes(columns: _Columns, images: list[dict[str, Any]], found: Findings) -> None:
    """Report each box under the first rule that it breaks."""
    sizes = np.array(
        [(_size_of(x, "width"), _size_of(x, "height")) for x in images] + [(np.inf,) * 2]
    )
    x0, y0, width, height = columns.boxes.T
    # The last row belongs to images that are not listed; no box is outside of it.
    image_width, image_height = sizes[columns.images].T
    with np.errstate(invalid="ignore", over="ignore"):
        rules = {
            "box-malformed": columns.malformed,
            "box-nan": np.isnan(columns.boxes).any(axis=1),
            "box-infinite": ~fit_float32(columns.boxes),
            "box-negative": (width < 0) | (height < 0),
            "box-empty": (width <= EMPTY) | (height <= EMPTY),
            "box-outside-image": (x0 + width <= 0)
            | (y0 + height <= 0)
            | (x0 >= image_width)
            | (y0 >= image_height),
        }
    left = np.ones(len(columns.ids), dtype=bool)
    for rule, is_one in rules.items():
        found.add_each(rule, np.flatnonzero(is_one & left), columns.about_box)
        left &= ~is_one
    left &= ~columns.crowd & (columns.images != NONE)
    objects = Objects(
        *(np.flatnonzero(left), columns.boxes[left], sizes[columns.images[left]]),
        *(columns.images[left], columns.categories[left]),
    )
    _check_areas(columns, objects, found)
    check_box_patterns(objects, found, columns.about_box)


def _check_areas(columns: _Columns, objects: Objects, found: Findings) -> None:
    """Report the areas that decide wrongly how the evaluation counts an object."""
    annotations = [columns.raw[row] for row in objects.rows]
    given = [annotation.get("area") for annotation in annotations]
    stated = np.array(list(map(_is_float, given)), dtype=bool)
    areas = np.array([area if _is_float(area) else 0 for area in given], dtype=np.float64)
    has_mask = _are_set(annotations, "segmentation")
    of_box = objects.boxes[:, 2] * objects.boxes[:, 3]
    ignored = (areas < 0) | (areas > MAX_AREA)
    smallest = of_box * np.where(has_mask, MIN_FILLED, 1 / 2) - 1
    fits = (areas > 0) & (areas >= smallest) & (areas <= 2 * of_box + 1)
    for rule, is_one in {"area-ignored": ignored, "area-differs": ~fits & ~ignored}.items():
        found.add_each(
            rule,
            objects.rows[is_one & stated],
            lambda row: columns.about(
                row, f"area {_given(columns.raw[row]['area'])}, bbox {columns.raw[row]['bbox']}"
            ),
        )


def fit_float32(boxes: np.ndarray) -> np.ndarray:
    """Return which boxes (n, 4), [x, y, width, height], have finite corners in float32."""
    corners = np.concatenate([boxes, boxes[:, :2] + boxes[:, 2:]], axis=1)
    return (np.abs(corners) <= MAX_FLOAT32).all(axis=1)


def _check_objects(
    columns: _Columns,
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    found: Findings,
) -> None:
    rows = columns.images[~columns.crowd]
    num_objects = np.bincount(rows[rows != NONE], minlength=len(images))
    if not num_objects.any():
        if found.counts["no-annotations"] or found.counts["annotation-image-id"]:
            return  # the objects are there, or another finding says why not
        num_crowds = int(columns.crowd.sum())
        message = (
            f"{len(images)} images, {len(annotations)} annotations ({num_crowds} crowd regions)"
        )
        found.add("only-crowds" if num_crowds else "no-objects", message)
        return
    num_crowds = int(columns.crowd.sum())
    if num_crowds > len(annotations) / 2:
        found.add("mostly-crowds", f"{num_crowds} of {len(annotations)} annotations")

    def about(row: int) -> dict[str, Any]:
        image = images[row]
        message = f"image {_shown(image.get('id'))} ({_shown(image.get('file_name'))})"
        return {"message": message, "image_id": image.get("id")}

    found.add_each("image-without-objects", np.flatnonzero(num_objects == 0), about)


def _counts(
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    columns: _Columns,
    found: Findings,
) -> Counts | None:
    wrong = ("category-malformed", "image-id", "annotation-image-id", "annotation-category")
    if any(found.counts[rule] for rule in wrong):
        return None
    objects = ~columns.crowd & (columns.images != NONE)
    on_image = np.bincount(columns.images[objects], minlength=len(images)).tolist()
    of_class = np.bincount(columns.categories[objects], minlength=len(categories)).tolist()
    order = sorted(range(len(categories)), key=lambda row: categories[row]["id"])
    return Counts(
        {image["id"]: number for image, number in zip(images, on_image, strict=True) if number},
        [of_class[row] for row in order],
    )


def rows_of_unusable(annotations: list[dict[str, Any]]) -> list[int]:
    """Return the rows of annotations whose segmentation Detectron2's loader cannot use."""
    return [
        row
        for row, annotation in enumerate(annotations)
        if kind_of_segmentation(annotation.get("segmentation")) == "unusable"
    ]


def _facts(
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    columns: _Columns,
    found: Findings,
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "images": len(images),
        "annotations": len(columns.ids),
        "crowds": int(columns.crowd.sum()),
    }
    if found.counts["category-malformed"]:
        return facts
    objects = ~columns.crowd & (columns.categories != NONE)
    num_objects = np.bincount(columns.categories[objects], minlength=len(categories))
    objects &= columns.images != NONE
    on_image = np.unique(columns.categories[objects] * len(images) + columns.images[objects])
    num_images = np.bincount(on_image // max(1, len(images)), minlength=len(categories))
    order = sorted(range(len(categories)), key=lambda row: categories[row]["id"])
    return {
        **facts,
        "classes": [categories[row]["name"] for row in order],
        "category_ids": [categories[row]["id"] for row in order],
        "annotations_per_class": [int(num_objects[row]) for row in order],
        "images_per_class": [int(num_images[row]) for row in order],
    }


def _ids(entries: list[dict[str, Any]], key: str) -> tuple[list[Any], list[int]]:
    """Return the ids and the rows of wrong ids; a wrong id is None."""
    ids = [entry.get(key) for entry in entries]
    wrong = wrong_ids(ids)
    for row in wrong:
        ids[row] = None
    return ids, wrong


def _rows_in(entries: list[dict[str, Any]], key: str, others: list[dict[str, Any]]) -> np.ndarray:
    """Return, for each entry, the row in ``others`` whose id the entry names under ``key``."""
    rows = {other["id"]: row for row, other in enumerate(others) if is_id(other.get("id"))}
    named = [entry.get(key) for entry in entries]
    if not set(map(type, named)) <= {int, str}:
        named = [value if is_id(value) else None for value in named]
    return np.fromiter((rows.get(value, NONE) for value in named), np.int64, len(named))


def _repeated(values: Sequence[Any]) -> list[tuple[Any, list[int]]]:
    """Return each value that occurs more than once, with all its rows; None is skipped."""
    if len(set(values)) == len(values):
        return []
    often = {value for value, n in Counter(values).items() if n > 1 and value is not None}
    rows: dict[Any, list[int]] = {}
    for row, value in enumerate(values):
        if value in often:
            rows.setdefault(value, []).append(row)
    return list(rows.items())


def _boxes(annotations: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the (n, 4) float64 boxes, 0 where malformed, and the mask of malformed boxes."""
    raw = [annotation.get("bbox") for annotation in annotations]
    # Fast path for valid boxes: a million boxes one by one take seconds.
    boxes = _array_of(raw)
    if boxes is not None:
        return boxes, np.zeros(len(raw), dtype=bool)
    single = [_array_of([box]) for box in raw]
    malformed = np.array([box is None for box in single])
    return np.concatenate([np.zeros((1, 4)) if box is None else box for box in single]), malformed


def _array_of(boxes: Sequence[Any]) -> np.ndarray | None:
    """Return the boxes as (n, 4) float64, or None if one of them is not 4 numbers."""
    if not set(map(type, boxes)) <= {list} or not set(map(len, boxes)) <= {4}:
        return None
    numbers = list(chain.from_iterable(boxes))
    if not set(map(type, numbers)) <= {int, float}:
        return None
    try:
        return np.array(numbers, dtype=np.float64).reshape(-1, 4)
    except OverflowError:  # an integer too large for a float
        return None


def _are_set(annotations: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.fromiter((bool(x.get(key)) for x in annotations), bool, len(annotations))


def _without_area(annotations: list[dict[str, Any]]) -> list[int]:
    return [
        row
        for row, annotation in enumerate(annotations)
        if "iscrowd" not in annotation or not _is_float(annotation.get("area"))
    ]


def _without(annotation: dict[str, Any]) -> str:
    """Return which of area and iscrowd an annotation lacks."""
    given = ("area", "iscrowd")
    return ", ".join(
        f"{key} {_given(annotation[key])}" if key in annotation else f"{key} missing"
        for key in given
    )


def _is_float(value: Any) -> bool:
    """Return True for a number that is finite as float64."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_size(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and 0 < value < MAX_SIZE


def _size_of(image: dict[str, Any], key: str) -> float:
    """Return a stated size, or infinity if it is not stated, so that no box is outside."""
    value = image.get(key)
    return value if _is_size(value) else float("inf")


def is_truth(value: Any) -> bool:
    """Return True for 0, 1, true and false."""
    return type(value) in (bool, int, float) and value in (0, 1)


def _given(value: Any) -> str:
    """Return a value as it is written in the file; text keeps its quotation marks."""
    return _shown(repr(value))


def _shown(value: Any) -> str:
    """Return a value as text that fits into one line."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
