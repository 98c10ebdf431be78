"""Registration of custom datasets: `--dataset NAME=annotations.json:image_dir`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from .checks.coco_rules import rows_of_unusable
from .checks.facts import read_content
from .checks.findings import DataError
from .ignore_regions import EVERY_CLASS, convert_ignore_regions
from .labeled_categories import add_labeled_classes


class DatasetArgument(NamedTuple):
    """A parsed `--dataset` argument."""

    name: str
    json_file: Path
    image_root: Path


def parse_dataset_argument(text: str) -> DatasetArgument:
    """
    Parse `NAME=annotations.json:image_dir`.

    Raises:
        ValueError: the text does not have this form.
    """
    name, _, paths = text.partition("=")
    json_file, _, image_root = paths.rpartition(":")
    if not (name and json_file and image_root):
        raise ValueError(
            f"--dataset must be NAME=annotations.json:image_dir, got {text!r}; a registered "
            "dataset is given by its name"
        )
    return DatasetArgument(name, Path(json_file).expanduser(), Path(image_root).expanduser())


def register_coco_dataset(dataset: DatasetArgument, ignored: Sequence[str] = ()) -> None:
    """
    Register a COCO-format dataset, so that `DATASETS.TRAIN` and `DATASETS.TEST` can name it.

    Its ignore regions become crowd regions, see
    :func:`~focal_plugin.data.ignore_regions.convert_ignore_regions`. The metadata of the dataset
    have them as `ignore_regions`, and its own file as `given_json_file`.

    Args:
        ignored: names of categories whose annotations are ignore regions.

    Raises:
        FileNotFoundError: the JSON file or the image directory does not exist.
        ValueError: the name is taken, or the JSON has no categories, or only ignored ones.
    """
    name, given, image_root = dataset
    json_file = given
    if json_file.is_dir() and image_root.is_file():
        raise ValueError(
            f"--dataset {name}: {json_file} is a folder and {image_root} a file; the order is "
            f"{name}={image_root}:{json_file}"
        )
    if not json_file.is_file():
        raise FileNotFoundError(f"--dataset {name}: file not found: {json_file}")
    if not image_root.is_dir():
        raise FileNotFoundError(f"--dataset {name}: directory not found: {image_root}")
    if name in DatasetCatalog.list():
        raise ValueError(f"--dataset {name}: a dataset with this name is already registered")
    read_class_names(json_file)
    regions = convert_ignore_regions(json_file, ignored)
    json_file = regions.json_file
    classes = read_class_names(json_file)
    DatasetCatalog.register(name, lambda: load_coco(name, json_file, image_root))
    MetadataCatalog.get(name).set(
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type="coco",
        thing_classes=classes,
        given_json_file=str(given),
        ignore_regions=regions,
    )


def load_coco(name: str, json_file: Path, image_root: Path) -> list[dict[str, Any]]:
    """
    Load a COCO JSON with Detectron2's loader, without segmentations that it cannot use.

    Detectron2 drops such an object, or fails, even if only boxes are trained. Here it is loaded
    without a segmentation. A region of every class keeps that mark, and a partly labeled image has
    its labeled classes.
    """
    known = read_content(json_file)
    unusable = known.findings.counts["segmentation-unusable"]
    partly_labeled = known.findings.counts["image-partly-labeled"]
    if not (unusable or partly_labeled):
        return load_coco_json(str(json_file), str(image_root), name, [EVERY_CLASS])
    content = json.loads(json_file.read_text(encoding="utf-8"))
    dicts = _load_usable(content, name, json_file, image_root)
    if partly_labeled:
        add_labeled_classes(dicts, content, known.facts["category_ids"])
    return dicts


def _load_usable(
    content: dict[str, Any], name: str, json_file: Path, image_root: Path
) -> list[dict[str, Any]]:
    """Load without the segmentations that Detectron2's loader cannot use."""
    rows = rows_of_unusable(content["annotations"])
    if not rows:
        return load_coco_json(str(json_file), str(image_root), name, [EVERY_CLASS])
    for row in rows:
        del content["annotations"][row]["segmentation"]
    with tempfile.TemporaryDirectory() as folder:
        usable = Path(folder, json_file.name)  # Detectron2 knows some files by their name
        usable.write_text(json.dumps(content), encoding="utf-8")
        return load_coco_json(str(usable), str(image_root), name, [EVERY_CLASS])


def read_class_names(json_file: Path) -> list[str]:
    """
    Return the category names of a COCO JSON in the order of their ids, Detectron2's class order.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: the file is not in COCO format or has no categories; the message names it.
    """
    content = read_content(json_file)
    classes = content.facts.get("classes")
    if not classes:
        reasons = [f"{json_file} is not a COCO JSON with categories:"]
        reasons += (f.message for f in content.findings.listed if f.severity == "error")
        raise DataError("\n  ".join(reasons))
    return classes
