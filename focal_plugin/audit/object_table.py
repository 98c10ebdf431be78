"""
Images and objects of a dataset as arrays, which every figure of the audit is computed from.

Shape shorthand:
    I: number of images
    M: number of annotations
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..data.loading.training_set import load_training_set

CROWD = -1
"""Class of a crowd region."""


class ObjectTable(NamedTuple):
    """
    Images and annotations of one or several datasets, in their order.

    Attributes:
        names: the registered datasets.
        class_names: K names by class index; empty if the dataset does not state them.
        file_names: I paths of image files.
        image_sizes: (I, 2), int64, height and width in pixels of the file.
        image: (M,), int64, image of each annotation.
        boxes: (M, 4), float64, XYXY in pixels of the file.
        classes: (M,), int64 in 0..K-1, or :data:`CROWD`.
    """

    names: tuple[str, ...]
    class_names: tuple[str, ...]
    file_names: list[str]
    image_sizes: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray

    @property
    def is_object(self) -> np.ndarray:
        """Mask of the annotations that are no crowd regions, (M,)."""
        return self.classes != CROWD

    def objects_per_class(self, num_classes: int) -> np.ndarray:
        """Return the number of objects of each class, (K,), int64."""
        return np.bincount(self.classes[self.is_object], minlength=num_classes)

    def images_per_class(self, num_classes: int) -> np.ndarray:
        """Return the number of images with an object of each class, (K,), int64."""
        pairs = np.stack([self.image, self.classes])[:, self.is_object]
        return np.bincount(np.unique(pairs, axis=1)[1], minlength=num_classes)


def read_training_set(cfg: CfgNode) -> ObjectTable:
    """Read the datasets of `DATASETS.TRAIN` together, as training loads and filters them."""
    names = tuple(cfg.DATASETS.TRAIN)
    return table_of(names, load_training_set(cfg, check_consistency=False))


def read_test_set(name: str) -> ObjectTable:
    """Read one registered dataset, with its images without objects."""
    return table_of((name,), DatasetCatalog.get(name))


def table_of(names: Sequence[str], dicts: Sequence[dict[str, Any]]) -> ObjectTable:
    """
    Return the table of dataset dicts in Detectron2's format.

    Args:
        names: registered names; the first one states the class names.
        dicts: one per image, with `height` and `width`.
    """
    annotations = [
        (index, annotation)
        for index, image in enumerate(dicts)
        for annotation in image.get("annotations", ())
    ]
    classes = [CROWD if a.get("iscrowd", 0) else a["category_id"] for _, a in annotations]
    return ObjectTable(
        tuple(names),
        tuple(MetadataCatalog.get(names[0]).get("thing_classes") or ()),
        [image["file_name"] for image in dicts],
        np.array([(x["height"], x["width"]) for x in dicts], dtype=np.int64).reshape(-1, 2),
        np.array([index for index, _ in annotations], dtype=np.int64),
        np.array([_xyxy(a) for _, a in annotations], dtype=np.float64).reshape(-1, 4),
        np.array(classes, dtype=np.int64),
    )


def _xyxy(annotation: dict[str, Any]) -> Sequence[float]:
    box, mode = annotation["bbox"], annotation["bbox_mode"]
    if mode == BoxMode.XYWH_ABS:
        x, y, width, height = box
        return x, y, x + width, y + height
    return np.asarray(BoxMode.convert(list(box), mode, BoxMode.XYXY_ABS)).tolist()
