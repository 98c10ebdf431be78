"""Requirements of a config on its data: masks, keypoints and proposals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..segmentations import has_mask, is_whole, kind_of_segmentation
from .annotation_names import AnnotationNames
from .dict_rules import fault_of_box
from .findings import Findings

MASK_FORMATS = ("polygon", "bitmask")


def check_config_requirements(cfg: CfgNode, name: str, *, split: str) -> Findings:
    """
    Return what a registered dataset lacks for a config, without its annotations.

    Args:
        split: "TRAIN" or "TEST", the list of the config that names the dataset.
    """
    found = Findings()
    if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT not in MASK_FORMATS:
        found.add("mask-format", f"INPUT.MASK_FORMAT is {cfg.INPUT.MASK_FORMAT!r}")
    if cfg.MODEL.KEYPOINT_ON:
        _check_keypoint_names(cfg, name, found)
    if cfg.MODEL.LOAD_PROPOSALS:
        _check_proposal_file(cfg, name, split, found)
    return found


def _check_keypoint_names(cfg: CfgNode, name: str, found: Findings) -> None:
    metadata = MetadataCatalog.get(name)
    missing = [x for x in ("keypoint_names", "keypoint_flip_map") if metadata.get(x) is None]
    if missing:
        message = f"the metadata of dataset {name!r} have no {' and no '.join(missing)}"
        found.add("keypoint-names", message)
        return
    number, known = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, len(metadata.keypoint_names)
    if number != known:
        message = f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {number}, dataset {name!r} has {known}"
        found.add("keypoint-names", message)


def _check_proposal_file(cfg: CfgNode, name: str, split: str, found: Findings) -> None:
    names, files = cfg.DATASETS[split], cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
    if len(names) != len(files):
        message = f"DATASETS.{split} has {len(names)} datasets, "
        found.add("proposals", f"{message}DATASETS.PROPOSAL_FILES_{split} {len(files)} files")
        return
    file = files[list(names).index(name)]
    if not Path(PathManager.get_local_path(file)).is_file():
        found.add("proposals", f"file not found: {file}")


def check_requirements(
    cfg: CfgNode, dicts: list[dict[str, Any]], names: AnnotationNames, found: Findings
) -> None:
    """
    Add the objects that lack a mask or keypoints which the config trains.

    Args:
        dicts: in Detectron2's standard format, as loaded for training.
        names: names an object in a message.
    """
    if not (cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON):
        return
    for image in dicts:
        for position, annotation in enumerate(image.get("annotations", ())):
            if annotation.get("iscrowd", 0):
                continue
            if cfg.MODEL.MASK_ON:
                fault = _fault_of_mask(cfg.INPUT.MASK_FORMAT, annotation)
                if fault is not None:
                    found.add(fault[0], **names.about(image, position, fault[1]))
            if cfg.MODEL.KEYPOINT_ON:
                message = _fault_of_keypoints(cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, annotation)
                if message is not None:
                    found.add("keypoints-missing", **names.about(image, position, message))


def _fault_of_mask(mask_format: str, annotation: dict[str, Any]) -> tuple[str, str] | None:
    if not has_mask(annotation):
        return "mask-missing", "no segmentation that can be used"
    kind = kind_of_segmentation(annotation["segmentation"])
    if mask_format == "polygon" and kind != "polygons":
        return "mask-format", f'the segmentation is {kind}, INPUT.MASK_FORMAT is "polygon"'
    if kind == "polygons" and fault_of_box(annotation) is None and _covers_nothing(annotation):
        return "mask-empty", f"box {annotation['bbox']}"
    return None


def _covers_nothing(annotation: dict[str, Any]) -> bool:
    """Return True if the extent of the polygons and the box have no area in common."""
    polygons = filter(is_whole, annotation["segmentation"])
    points = np.concatenate([np.reshape(x, (-1, 2)) for x in polygons])
    x0, y0, x1, y1 = BoxMode.convert(
        list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS
    )
    lower = np.maximum(points.min(axis=0), (x0, y0))
    upper = np.minimum(points.max(axis=0), (x1, y1))
    return bool((upper <= lower).any())


def _fault_of_keypoints(number: int, annotation: dict[str, Any]) -> str | None:
    given = annotation.get("keypoints")
    if given is None or len(given) == 0:
        return "no keypoints"
    if len(given) != 3 * number:
        return f"{len(given)} numbers, expected 3 * {number} of NUM_KEYPOINTS"
    return None
