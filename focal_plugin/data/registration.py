"""Registration of custom datasets: `--dataset NAME=annotations.json:image_dir`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from .checks.facts import read_content
from .checks.findings import DataError


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
        raise ValueError(f"--dataset must be NAME=annotations.json:image_dir, got {text!r}")
    return DatasetArgument(name, Path(json_file).expanduser(), Path(image_root).expanduser())


def register_coco_dataset(dataset: DatasetArgument) -> None:
    """
    Register a COCO-format dataset, so that `DATASETS.TRAIN` and `DATASETS.TEST` can name it.

    Raises:
        FileNotFoundError: the JSON file or the image directory does not exist.
        ValueError: the name is taken, or the JSON has no categories.
    """
    name, json_file, image_root = dataset
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
    classes = read_class_names(json_file)
    register_coco_instances(name, {}, str(json_file), str(image_root))
    MetadataCatalog.get(name).thing_classes = classes


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
