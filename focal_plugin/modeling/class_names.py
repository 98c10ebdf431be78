"""Names of the classes in Detectron2's metadata, for pictures of a trained model."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog


def name_classes(cfg: CfgNode) -> None:
    """
    Give the names of `MODEL.FOCAL.CLASS_NAMES` to the datasets of a config that have none.

    The detectors of this package call it when they are built. So Detectron2's `DefaultPredictor`,
    `Visualizer` and demo show the names of a trained model where its datasets are not registered.
    A registered dataset, and one that has names, is left alone.

    Args:
        cfg: config with the key `MODEL.FOCAL.CLASS_NAMES`; [] does nothing.
    """
    names = list(cfg.MODEL.FOCAL.CLASS_NAMES)
    if not names:
        return
    known = DatasetCatalog.list()
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(dataset)
        if dataset not in known and metadata.get("thing_classes") is None:
            metadata.thing_classes = names
