"""Facts of the annotation file of a dataset. Each file is read once and cached."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...garbage_collection import garbage_collection_paused
from .coco_rules import Content, check_content
from .findings import Findings

DATASET_FACTS = (
    "json_file",
    "image_root",
    "json_sha256",
    "images",
    "annotations",
    "crowds",
    "classes",
    "category_ids",
    "annotations_per_class",
    "images_per_class",
)
"""
Names of the facts of a dataset.

Classes are in the order of the category ids, which is Detectron2's order. `category_ids` and
the counts per class are in the order of the classes. Crowd regions count as annotations, but not
as objects of a class. `images_per_class` is the number of images with such an object.
"""


class _Version(NamedTuple):
    """Size and time stamp of a file, to detect a change."""

    size: int
    mtime_ns: int


_read: dict[Path, tuple[_Version, Content]] = {}


def describe_dataset(name: str) -> dict[str, Any]:
    """
    Return the facts of a registered dataset from its COCO JSON.

    If the dataset has no such file, every value but the name is None.

    Raises:
        FileNotFoundError: the annotation file does not exist.
    """
    json_file = find_json(name)
    if json_file is None:
        return {"name": name, **dict.fromkeys(DATASET_FACTS)}
    image_root = MetadataCatalog.get(name).get("image_root")
    if image_root is not None and "://" not in image_root:
        image_root = str(Path(image_root).absolute())
    return {"name": name, **facts_of(json_file, image_root, read_content(json_file))}


def facts_of(json_file: Path, image_root: Any, content: Content) -> dict[str, Any]:
    """Return all of :data:`DATASET_FACTS`; a fact that the file does not state is None."""
    known = {"json_file": str(json_file), "image_root": image_root, **content.facts}
    return {key: known.get(key) for key in DATASET_FACTS}


def find_json(name: str) -> Path | None:
    """
    Return the annotation file of a registered dataset. A built-in dataset is drawn on first use.

    Returns:
        an absolute path, or None if the dataset has no such file.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    given = MetadataCatalog.get(name).get("json_file")
    if not given:
        return None
    json_file = Path(PathManager.get_local_path(given)).absolute()
    if not json_file.exists():
        with contextlib.suppress(FileNotFoundError):  # raised below with the dataset's name
            DatasetCatalog.get(name)
    if not json_file.exists():
        raise FileNotFoundError(
            f"dataset {name!r}: file not found: {json_file}; DETECTRON2_DATASETS sets the folder "
            "of Detectron2's own datasets"
        )
    return json_file


def read_content(json_file: Path, *, max_json_mib: float | None = None) -> Content:
    """
    Read a COCO annotation file and apply the rules for its content.

    The result is cached until the size or the time stamp of the file changes.

    Args:
        max_json_mib: size limit; a larger file is not read. None: no limit.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    json_file = json_file.absolute()
    status = json_file.stat()
    mib = status.st_size / 2**20
    if max_json_mib is not None and mib > max_json_mib:
        return _refused("json-too-large", f"{mib:.1f} MiB, the limit is {max_json_mib:g} MiB")
    version = _Version(status.st_size, status.st_mtime_ns)
    if json_file in _read and _read[json_file][0] == version:
        return _read[json_file][1]
    content = _read_and_check(json_file)
    _read[json_file] = (version, content)
    return content


def _read_and_check(json_file: Path) -> Content:
    raw = json_file.read_bytes()
    sha256 = hashlib.sha256(raw).hexdigest()
    try:
        # A JSON has no cycles, and the search for them takes half the time of a large file.
        with garbage_collection_paused():
            # Text, as pycocotools reads it: json.loads would also accept bytes in UTF-16.
            text = raw.decode("utf-8")
            del raw
            parsed = json.loads(text)
            del text
            # Detectron2 accepts repeated annotations in these two files of COCO 2014.
            content = check_content(parsed, may_repeat_annotations="minival" in json_file.name)
    except (ValueError, RecursionError) as error:
        content = _refused("json-broken", str(error))
    return content._replace(facts={"json_sha256": sha256, **content.facts})


def _refused(rule: str, message: str) -> Content:
    found = Findings()
    found.add(rule, message)
    return Content(found, [], {})
