"""
Registration of `focal_shapes_train` and `focal_shapes_val`, which are drawn on first use.

They are stored in Detectron2's dataset root, `$DETECTRON2_DATASETS` or `./datasets`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..dataset_root import dataset_root
from .dataset import draw_dataset
from .painting import CLASSES, VERSION, ShapesSpec

logger = logging.getLogger(__name__)

SPLITS = {
    "focal_shapes_train": ShapesSpec(images=1000, seed=0),
    "focal_shapes_val": ShapesSpec(images=250, seed=1),
}


def register_shapes(name: str, spec: ShapesSpec, folder: Path | None = None) -> None:
    """
    Register ``spec`` as dataset ``name``, evaluated by Detectron2's COCO evaluator.

    Args:
        folder: folder of the dataset, which is drawn there on first use. By default it is below
            the folder of all datasets. Its path contains the version of the drawings, so that
            another version's files are never used.
    """
    if folder is None:
        folder = dataset_root() / f"focal_shapes_v{VERSION}" / name
    json_file, image_root = str(folder / "annotations.json"), str(folder / "images")

    def load() -> list[dict[str, Any]]:
        if not folder.exists():
            logger.info(f"Drawing the {spec.images} images of {name} into {folder} ...")
            draw_dataset(spec, folder)
        return load_coco_json(json_file, image_root, name)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        thing_classes=list(CLASSES),
    )


def register_all() -> None:
    for name, spec in SPLITS.items():
        register_shapes(name, spec)


register_all()
