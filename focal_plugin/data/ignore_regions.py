"""
Ignore regions of a COCO file: parts of an image that count neither as object nor as background.

A COCO file knows only crowd regions, which are ignored for one class. An annotation with
`"ignore": 1` becomes one. So does an annotation of an ignored category, such as KITTI's "DontCare",
but it has no class: it is a region of every class, and its category is no class of the dataset.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pycocotools.coco import COCO

from ..files import write_text
from .checks.coco_rules import is_truth
from .checks.facts import read_content
from .coco_ids import is_id
from .dataset_root import dataset_root
from .labeled_categories import FIELDS

EVERY_CLASS = "every_class"
"""Key of an annotation whose region is ignored for every class; its category is only a stand-in."""

FOLDER = "focal_ignore_regions"
"""Folder in Detectron2's dataset root of the annotation files with crowd regions instead."""

VERSION = 1
"""Number that changes with the form of these files, so that no old one is used."""


class IgnoreRegions(NamedTuple):
    """
    Result of :func:`convert_ignore_regions`.

    Attributes:
        json_file: annotation file with crowd regions; the given file if it has no ignore regions.
        marked: number of annotations with `"ignore": 1`.
        of_categories: number of annotations of an ignored category.
        categories: names of the ignored categories that the file has.
    """

    json_file: Path
    marked: int = 0
    of_categories: int = 0
    categories: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return what became crowd regions, as one clause; "" if nothing did."""
        plural = "s" if self.marked != 1 else ""
        parts = [f'{self.marked} annotation{plural} with "ignore": 1'] if self.marked else []
        if self.categories:
            parts.append(f"{self.of_categories} of the category {', '.join(self.categories)}")
        return " and ".join(parts)


def convert_ignore_regions(
    json_file: Path, ignored: Sequence[str] = (), *, max_json_mib: float | None = None
) -> IgnoreRegions:
    """
    Write a copy of a COCO file in which each ignore region is a crowd region.

    The copy is in Detectron2's dataset root, in a folder named by the digest of its content. So it
    is written once, and the given file does not change.

    Args:
        ignored: names of categories whose annotations are ignore regions of every class. A name
            that the file does not have is left out.
        max_json_mib: a larger file is not read, and not converted. None: no limit.

    Returns:
        the copy, or the given file if it has no ignore regions or cannot be read.

    Raises:
        ValueError: every category is ignored.
        OSError: the copy cannot be written.
    """
    content = read_content(json_file, max_json_mib=max_json_mib)
    classes = content.facts.get("classes") or []
    names = tuple(name for name in classes if name in ignored)
    if not (names or (classes and content.findings.counts["annotation-ignore"])):
        return IgnoreRegions(json_file)
    if len(names) == len(classes):
        raise ValueError(f"{json_file}: every category is ignored: {', '.join(names)}")
    parsed = json.loads(json_file.read_text(encoding="utf-8"))
    marked, of_categories = _convert(parsed, names)
    if not (names or marked):
        return IgnoreRegions(json_file)
    key = repr((VERSION, content.facts["json_sha256"], names))
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    # Detectron2 knows some files by their name
    copy = (dataset_root() / FOLDER / digest / json_file.name).absolute()
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_text(copy, json.dumps(parsed))
    return IgnoreRegions(copy, marked, of_categories, names)


def _convert(content: dict[str, Any], ignored: Sequence[str]) -> tuple[int, int]:
    """Replace the ignore regions in place; return how many were marked, and of the categories."""
    categories = content["categories"]
    out = {x["id"] for x in categories if x["name"] in ignored}
    content["categories"] = [x for x in categories if x["id"] not in out]
    stand_in = min(x["id"] for x in content["categories"])
    for image, field in itertools.product(content["images"], FIELDS):
        if isinstance(image.get(field), list):
            image[field] = [x for x in image[field] if not (is_id(x) and x in out)]
    marked = of_categories = 0
    for annotation in content.get("annotations", ()):
        category = annotation.get("category_id")
        if is_truth(annotation.get("ignore", 0)) and annotation.pop("ignore", 0):
            marked += category not in out if is_id(category) else True
            _make_crowd(annotation)
        if is_id(category) and category in out:
            of_categories += 1
            _make_crowd(annotation)
            annotation |= {"category_id": stand_in, EVERY_CLASS: 1}
    return marked, of_categories


def _make_crowd(annotation: dict[str, Any]) -> None:
    annotation["iscrowd"] = 1
    box = annotation.get("bbox")
    if "area" not in annotation and isinstance(box, list) and len(box) == 4:
        with contextlib.suppress(TypeError):  # a fault of the box, which the checks report
            annotation["area"] = math.prod(box[2:])


def classes_of_region(annotation: dict[str, Any], own: Any, every: Sequence[Any]) -> Sequence[Any]:
    """Return the classes for which an annotation counts: its own, or every one."""
    return every if annotation.get(EVERY_CLASS) else (own,)


def spread_over_classes(ground_truth: COCO) -> None:
    """Add a crowd region of each other class for each region of every class, in place."""
    annotations = ground_truth.dataset.get("annotations", [])
    copies = list(_copies(annotations, sorted(ground_truth.cats)))
    if copies:
        annotations += copies
        with contextlib.redirect_stdout(io.StringIO()):
            ground_truth.createIndex()


def _copies(annotations: list[dict[str, Any]], categories: list[Any]) -> Iterator[dict[str, Any]]:
    numbers = itertools.count(
        max((x["id"] for x in annotations if type(x["id"]) is int), default=0) + 1
    )
    for annotation in annotations:
        own = annotation["category_id"]
        for category in classes_of_region(annotation, own, categories):
            if category != own:
                yield {**annotation, "id": next(numbers), "category_id": category}
