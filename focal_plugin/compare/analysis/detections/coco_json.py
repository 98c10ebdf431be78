"""Ground truth and detections as arrays, from COCO json files that are checked entry by entry."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np

try:
    import msgspec
except ImportError:  # of the extra "fast"
    msgspec = None  # type: ignore[assignment]  # only its absence is checked

from ....data.coco_ids import LEGAL, Id, canonical, is_id, wrong_ids
from ....data.ignore_regions import classes_of_region
from ....garbage_collection import garbage_collection_paused
from ..statistics import is_finite_number

logger = logging.getLogger(__name__)

_BLOCK = 2**22
_LONGEST_ENTRY = 2**18
_BETWEEN_OBJECTS = re.compile(rb"\}\s*,\s*\{")


FREQUENCIES = ("r", "c", "f")
"""Rare, common and frequent classes of LVIS (arXiv:1908.03195)."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """
    Annotations of a dataset, including crowds: G annotations in the order of the file.

    Attributes:
        image_ids: I ids, ascending; :mod:`~focal_plugin.data.coco_ids` states what an id is.
        category_ids: K ids, ascending, which is Detectron2's order of the classes.
        class_names: names in the order of ``category_ids``; two may be equal.
        image: (G,) index into ``image_ids``.
        category: (G,) index into ``category_ids``.
        box: (G, 4) x, y, width, height in pixels.
        area: (G,) area of the annotation (its mask) in pixels, which defines the COCO size.
        crowd: (G,) True for crowds.
        digest: digest of the content.
        federated: True if images list the classes that are annotated on them, as in LVIS. On other
            classes a detection may be right without an annotation.
        frequency: letter of :data:`FREQUENCIES` for each class, in the order of ``category_ids``;
            None unless every category states it, as in LVIS.
    """

    image_ids: tuple[int | str, ...]
    category_ids: tuple[int | str, ...]
    class_names: tuple[str, ...]
    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    digest: str
    federated: bool = False
    frequency: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Detections:
    """
    Detections of a run: D entries in the order of the file.

    Attributes:
        image: (D,) index into the image ids of the ground truth.
        category: (D,) index into the category ids of the ground truth.
        box: (D, 4) x, y, width, height in pixels.
        score: (D,) finite scores.
    """

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    score: np.ndarray

    @cached_property
    def order(self) -> np.ndarray:
        """(D,) the detections by score, highest first, then by image, then as in the file."""
        return np.lexsort((self.image, -self.score)).astype(np.int32)


def read_ground_truth(file: Path) -> GroundTruth:
    """
    Read the annotations of a COCO json.

    An annotation of an image that is not listed is left out, with a warning. An ignore region of
    every class is a crowd of each.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not valid COCO json, an id is not unique, an annotation has an
            unknown category, or its box is not four finite numbers with a size >= 0.
    """
    content = _load(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file}: must be an object with images, categories and annotations")
    names_of_lists = ("images", "categories", "annotations")
    lists: dict[str, Any] = {name: content.get(name) for name in names_of_lists}
    for name, entries in lists.items():
        if not isinstance(entries, list):
            raise ValueError(f"{file}: {name} must be a list, got {type(entries).__name__}")
    image_ids = _unique_ids(lists["images"], f"{file}: image")
    category_ids = _unique_ids(lists["categories"], f"{file}: category")
    named = {category["id"]: str(category.get("name")) for category in lists["categories"]}
    images, categories = _numbered(image_ids), _numbered(category_ids)

    rows, outside = [], 0
    for index, annotation in enumerate(lists["annotations"]):
        where = f"{file}: annotation {index}"
        category = _known(annotation, "category_id", categories, where)
        image_id = _field(annotation, "image_id", where)
        if not is_id(image_id) or image_id not in images:
            outside += 1
            continue
        box = _box(annotation, where)
        area = annotation.get("area", box[2] * box[3])
        if not is_finite_number(area):
            raise ValueError(f"{where}: area must be a finite number, got {area!r}")
        crowd = bool(annotation.get("iscrowd", 0))
        for of_class in classes_of_region(annotation, category, range(len(categories))):
            rows.append((images[image_id], of_class, *box, area, crowd))
    if outside:
        logger.warning("%s: %d annotations of images that are not listed", file, outside)
    table = np.array(rows, dtype=np.float64).reshape(-1, 8)
    ids = f"{image_ids}{category_ids}".encode()
    return GroundTruth(
        image_ids=image_ids,
        category_ids=category_ids,
        class_names=tuple(named[id_] for id_ in category_ids),
        image=table[:, 0].astype(np.int32),
        category=table[:, 1].astype(np.int32),
        box=table[:, 2:6],
        area=table[:, 6],
        crowd=table[:, 7] > 0,
        digest=hashlib.sha256(ids + table.tobytes()).hexdigest(),
        federated=any("neg_category_ids" in image for image in lists["images"]),
        frequency=_frequency(lists["categories"]),
    )


def _frequency(categories: list[dict[str, Any]]) -> tuple[str, ...] | None:
    """Return the frequencies by id; None if a category states none."""
    given = [category.get("frequency") for category in sorted(categories, key=itemgetter("id"))]
    stated = tuple(letter for letter in given if letter in FREQUENCIES)
    return stated if stated and len(stated) == len(given) else None


def read_detections(source: Path | list[dict[str, Any]], ground_truth: GroundTruth) -> Detections:
    """
    Read the detections of a run.

    Args:
        source: `coco_instances_results.json`, or its content. An empty list is legal.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a JSON list. Or an entry has an image or a category that is not
            in the ground truth, a score that is not finite, or a box that is not four finite
            numbers with a size >= 0. The message names file and entry.
    """
    images = _numbered(ground_truth.image_ids)
    categories = _numbered(ground_truth.category_ids)
    blocks: Iterable[list[Any]]
    if isinstance(source, list):
        name, blocks = "detections", [source]
    else:
        name, blocks = str(source), _blocks(source, (_typed_entries, _loads))
    parts, start = [], 0
    for entries in blocks:
        found = _at_once(entries, images, categories)
        if found is None:
            plain = [e if isinstance(e, dict) else msgspec.to_builtins(e) for e in entries]
            found = _one_by_one(plain, images, categories, name, start)
        parts.append(found)
        start += len(entries)
    if len(parts) == 1:
        return parts[0]
    columns = zip(*((d.image, d.category, d.box, d.score) for d in parts), strict=True)
    return Detections(*map(np.concatenate, columns))


def read_entries(file: Path) -> Iterator[list[Any]]:
    """
    Read the entries of a list of detections.

    Yields:
        The entries in blocks of about :data:`_BLOCK` bytes, so that a large file is never in memory
        as a whole; at least one block. A file of an unusual form is one block.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a JSON list.
    """
    return _blocks(file, (_loads,))


def _blocks(file: Path, parsers: Sequence[Callable[[bytes], Any]]) -> Iterator[list[Any]]:
    """Yield the blocks of :func:`read_entries`, each from the first parser that reads it."""
    count = 0
    with file.open("rb") as stream:
        text = stream.read(_BLOCK).lstrip()
        regular = text.startswith(b"[")
        text = text[1:]
        while regular and (more := stream.read(_BLOCK)):
            text += more
            end = _end_of_entry(text)
            entries = _parsed(b"[" + text[:end] + b"]", parsers)
            regular = entries is not None
            if entries is not None:
                yield entries
                count += len(entries)
                text = text[end:].lstrip().removeprefix(b",")
        entries = _parsed(b"[" + text, parsers) if regular else None
    if entries is None:
        entries = _load(file)
        if not isinstance(entries, list):
            raise ValueError(f"{file}: must be a list of detections, got {type(entries).__name__}")
        entries = entries[count:]
    yield entries


def _end_of_entry(text: bytes) -> int:
    """Return the end of the last object that another one follows; 0 if there is none."""
    between = _BETWEEN_OBJECTS.finditer(text, max(0, len(text) - _LONGEST_ENTRY))
    return max((found.start() + 1 for found in between), default=0)


def _parsed(text: bytes, parsers: Sequence[Callable[[bytes], Any]]) -> list[Any] | None:
    """Return the entries of a JSON list; None if it is empty, or malformed."""
    for parse in parsers:
        with contextlib.suppress(ValueError), garbage_collection_paused():
            return parse(text) or None
    return None


def _loads(text: bytes) -> Any:
    return json.loads(text.decode())


def _typed_entries(text: bytes) -> Any:
    """
    Return the entries of a JSON list with the usual types, as objects with a few attributes.

    They take a quarter of the time of the standard library's dictionaries, with the same numbers.

    Raises:
        ValueError: msgspec is not installed, or an entry has a field of an unusual type, such as a
            NaN, or has not all of them.
    """
    if msgspec is None:
        raise ValueError("msgspec is not installed")
    return _decoder().decode(text)


@cache
def _decoder() -> Any:
    fields = [
        ("image_id", int | str),
        ("category_id", int | str),
        ("bbox", list[float]),
        ("score", float),
    ]
    entry: Any = msgspec.defstruct("_Entry", fields, gc=False)
    return msgspec.json.Decoder(list[entry])


def _at_once(
    entries: list[Any], images: dict[Id, int], categories: dict[Id, int]
) -> Detections | None:
    """
    Return the detections, ten times as fast as :func:`_one_by_one`.

    Returns:
        None if there is an entry that is malformed or of an unusual type.
    """
    typed = bool(entries) and not isinstance(entries[0], dict)
    getter: Callable[[str], Callable[[Any], Any]] = attrgetter if typed else itemgetter

    def column(key: str) -> Iterator[Any]:
        return map(getter(key), entries)

    def sides() -> Iterator[Any]:
        return chain.from_iterable(column("bbox"))

    try:
        usual = typed or (
            {*map(type, column("image_id")), *map(type, column("category_id"))} <= {int, str}
            and {*map(type, sides()), *map(type, column("score"))} <= {int, float}
        )
        if not usual or not set(map(len, column("bbox"))) <= {4}:
            return None
        number = len(entries)
        of_image = map(images.__getitem__, column("image_id"))
        of_category = map(categories.__getitem__, column("category_id"))
        found = Detections(
            image=np.fromiter(of_image, np.int32, number),
            category=np.fromiter(of_category, np.int32, number),
            box=np.fromiter(sides(), np.float64, 4 * number).reshape(-1, 4),
            score=np.fromiter(column("score"), np.float64, number),
        )
    except (AttributeError, KeyError, TypeError, OverflowError):
        return None
    finite = np.isfinite(found.box).all() and np.isfinite(found.score).all()
    return found if finite and (found.box[:, 2:] >= 0).all() else None


def _one_by_one(
    entries: list[Any], images: dict[Id, int], categories: dict[Id, int], name: str, start: int
) -> Detections:
    """Return the detections, of which the first is number ``start`` of the file."""
    rows = []
    for index, entry in enumerate(entries, start):
        where = f"{name}: detection {index}"
        image = _known(entry, "image_id", images, where)
        category = _known(entry, "category_id", categories, where)
        score = _field(entry, "score", where)
        if not is_finite_number(score):
            raise ValueError(f"{where}: score must be a finite number, got {score!r}")
        rows.append((image, category, *_box(entry, where), score))
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return Detections(
        image=table[:, 0].astype(np.int32),
        category=table[:, 1].astype(np.int32),
        box=table[:, 2:6],
        score=table[:, 6],
    )


def _load(file: Path) -> Any:
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not valid JSON: {error}") from error


def _numbered(ids: Iterable[int | str]) -> dict[Id, int]:
    return {id_: index for index, id_ in enumerate(ids)}


def _unique_ids(entries: list[dict[str, Any]], what: str) -> tuple[int | str, ...]:
    """Return the ids, ascending; raise an error if one is not legal or not unique."""
    given = [_field(entry, "id", f"{what} {index}") for index, entry in enumerate(entries)]
    wrong = wrong_ids(given)
    if wrong:
        raise ValueError(f"{what} {wrong[0]}: id must be {LEGAL}, got {given[wrong[0]]!r:.80}")
    ids: set[int | str] = set()
    for index, id_ in enumerate(map(canonical, given)):
        if id_ in ids:
            raise ValueError(f"{what} {index}: duplicate id {id_!r}")
        ids.add(id_)
    return tuple(sorted(ids))


def _field(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"{where}: has no {key}")
    return entry[key]


def _known(entry: Any, key: str, numbered: dict[Id, int], where: str) -> int:
    id_ = _field(entry, key, where)
    if not is_id(id_) or id_ not in numbered:
        raise ValueError(f"{where}: {key} {id_!r:.80} is not in the ground truth")
    return numbered[id_]


def _box(entry: Any, where: str) -> tuple[float, float, float, float]:
    box = _field(entry, "bbox", where)
    numeric = isinstance(box, list | tuple) and len(box) == 4 and all(map(is_finite_number, box))
    if not numeric or box[2] < 0 or box[3] < 0:
        raise ValueError(f"{where}: bbox must be 4 finite numbers, width, height >= 0, got {box!r}")
    return tuple(box)
