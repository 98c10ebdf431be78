"""A user's own COCO-format data set: `--dataset NAME=annotations.json:image_dir`."""

from __future__ import annotations

import difflib
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


# Which key of a meta-architecture is its number of classes; those not named have none, or their own
NUM_CLASSES_NODE = {
    "FocalRetinaNet": "RETINANET",
    "RetinaNet": "RETINANET",
    "GeneralizedRCNN": "ROI_HEADS",
    "PanopticFPN": "ROI_HEADS",
}


def check_datasets(cfg: CfgNode) -> None:
    """
    Find out before the first iteration what Detectron2 finds after the last one, or never.

    Raises:
        KeyError: no data set has a name that `DATASETS.TRAIN` or `DATASETS.TEST` gives.
        ValueError: the model's number of classes is not that of a data set; the message states
            both. With one class too few, Detectron2 trains the last one as background.
    """
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    for name in names:
        _check_name(name)
    node = NUM_CLASSES_NODE.get(cfg.MODEL.META_ARCHITECTURE)
    if node is None:
        return
    num_classes = cfg.MODEL[node].NUM_CLASSES
    for name in names:
        classes = MetadataCatalog.get(name).get("thing_classes")
        if classes is not None and len(classes) != num_classes:
            raise ValueError(
                f"MODEL.{node}.NUM_CLASSES is {num_classes}, but data set {name!r} has "
                f"{len(classes)} classes: {', '.join(classes)}"
            )


def _check_name(name: str) -> None:
    known = DatasetCatalog.list()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "--dataset registers one"
        raise KeyError(f"no data set is named {name!r}; {hint}")
