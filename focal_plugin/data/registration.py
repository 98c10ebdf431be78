"""A user's own COCO-format data set: `--dataset NAME=annotations.json:image_dir`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances


class DatasetArgument(NamedTuple):
    """A parsed `--dataset` argument."""

    name: str
    json_file: Path
    image_root: Path


def parse_dataset_argument(text: str) -> DatasetArgument:
    """
    Parse `NAME=annotations.json:image_dir`.

    Raises:
        ValueError: the text has another form.
    """
    name, _, paths = text.partition("=")
    json_file, _, image_root = paths.rpartition(":")
    if not (name and json_file and image_root):
        raise ValueError(f"--dataset must be NAME=annotations.json:image_dir, got {text!r}")
    return DatasetArgument(name, Path(json_file).expanduser(), Path(image_root).expanduser())


def register_coco_dataset(dataset: DatasetArgument) -> None:
    """
    Register a COCO-format data set, so that `DATASETS.TRAIN` and `DATASETS.TEST` can name it.

    Raises:
        FileNotFoundError: the json file or the image directory is not there.
        ValueError: the name is taken, or the json holds no categories.
    """
    name, json_file, image_root = dataset
    if not json_file.is_file():
        raise FileNotFoundError(f"--dataset {name}: no file {json_file}")
    if not image_root.is_dir():
        raise FileNotFoundError(f"--dataset {name}: no directory {image_root}")
    if name in DatasetCatalog.list():
        raise ValueError(f"--dataset {name}: a data set of that name is registered already")
    classes = read_class_names(json_file)
    register_coco_instances(name, {}, str(json_file), str(image_root))
    MetadataCatalog.get(name).thing_classes = classes


def read_class_names(json_file: Path) -> list[str]:
    """
    The category names of a COCO json in the order of their ids, which is Detectron2's class order.

    Raises:
        ValueError: it is not a json, or has no categories; the message names the file.
    """
    try:
        categories = json.loads(json_file.read_text(encoding="utf-8")).get("categories")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{json_file} is not a COCO json: {error}") from error
    if not categories:
        raise ValueError(f'{json_file} has no "categories"')
    return [category["name"] for category in sorted(categories, key=lambda c: c["id"])]


def check_num_classes(cfg: CfgNode) -> None:
    """
    Compare the model's number of classes with that of every data set of the config.

    With one class too few, Detectron2 trains the last one as background without a word.

    Raises:
        ValueError: they differ; the message states both.
    """
    if "RetinaNet" in cfg.MODEL.META_ARCHITECTURE:
        key, num_classes = "MODEL.RETINANET.NUM_CLASSES", cfg.MODEL.RETINANET.NUM_CLASSES
    else:
        key, num_classes = "MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        classes = MetadataCatalog.get(dataset).get("thing_classes")
        if classes is not None and len(classes) != num_classes:
            raise ValueError(
                f"{key} is {num_classes}, but data set {dataset!r} has {len(classes)} classes: "
                f"{', '.join(classes)}"
            )
