"""What is in the annotation file of a data set: read once, however many ask."""

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
)
"""
The facts of a data set. Classes are in the order of the category ids, which is Detectron2's, and
`category_ids` and `annotations_per_class` in that of the classes; crowds are annotations, and no
object of a class.
"""


class _Version(NamedTuple):
    """What tells whether a file has changed."""

    size: int
    mtime_ns: int


_read: dict[Path, tuple[_Version, Content]] = {}


def describe_dataset(name: str) -> dict[str, Any]:
    """
    The facts of a registered data set, from its COCO json; None for everything but the name where
    it has no such file.

    Raises:
        FileNotFoundError: the annotation file is not there.
    """
    json_file = find_json(name)
    if json_file is None:
        return {"name": name, **dict.fromkeys(DATASET_FACTS)}
    image_root = MetadataCatalog.get(name).get("image_root")
    return {"name": name, **facts_of(json_file, image_root, read_content(json_file))}


def facts_of(json_file: Path, image_root: Any, content: Content) -> dict[str, Any]:
    """All of :data:`DATASET_FACTS`; None for those that the file does not have."""
    known = {"json_file": str(json_file), "image_root": image_root, **content.facts}
    return {key: known.get(key) for key in DATASET_FACTS}


def find_json(name: str) -> Path | None:
    """
    The annotation file of a registered data set; a built-in one that nobody has used yet is drawn.

    Returns:
        an absolute path, or None where the data set has no such file.

    Raises:
        FileNotFoundError: it is not there.
    """
    given = MetadataCatalog.get(name).get("json_file")
    if not given:
        return None
    json_file = Path(PathManager.get_local_path(given)).absolute()
    if not json_file.exists():
        with contextlib.suppress(FileNotFoundError):  # said below, with the name of the data set
            DatasetCatalog.get(name)
    if not json_file.exists():
        raise FileNotFoundError(
            f"data set {name!r}: no file {json_file}; DETECTRON2_DATASETS names the folder that "
            "Detectron2's own data sets are in"
        )
    return json_file


def read_content(json_file: Path, *, max_json_mib: float | None = None) -> Content:
    """
    Read a COCO annotation file and apply the rules for what is in it. The answer is kept until the
    file has another size or time.

    Args:
        max_json_mib: a larger file is not read. None: any size.

    Raises:
        FileNotFoundError: it is not there.
    """
    json_file = json_file.absolute()
    status = json_file.stat()
    mib = status.st_size / 2**20
    if max_json_mib is not None and mib > max_json_mib:
        return _refused("json-too-large", f"{mib:.1f} MiB, at most {max_json_mib:g} are read")
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
        # a JSON has no cycles, and to look for them takes half of the time of a large one
        with garbage_collection_paused():
            # as text, like pycocotools: json.loads would take bytes of UTF-16 too
            text = raw.decode("utf-8")
            del raw
            parsed = json.loads(text)
            del text
            # Detectron2 knows that these two files of COCO 2014 repeat some annotations
            content = check_content(parsed, may_repeat_annotations="minival" in json_file.name)
    except (ValueError, RecursionError) as error:
        content = _refused("json-broken", str(error))
    return content._replace(facts={"json_sha256": sha256, **content.facts})


def _refused(rule: str, message: str) -> Content:
    found = Findings()
    found.add(rule, message)
    return Content(found, [], {})
