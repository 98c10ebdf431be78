"""Training sets as Detectron2's train loader loads and filters them."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts

from ...checks import check_choice
from ..checks.impossible_boxes import drop_impossible_boxes
from ..labeled_categories import completely_labeled
from ..segmentations import has_mask

logger = logging.getLogger(__name__)

UNLABELED_POLICIES = ("ignore", "background")
"""Legal values of `MODEL.FOCAL.ANCHOR_LABELS.UNLABELED`."""


def load_training_set(cfg: CfgNode, **options: Any) -> list[dict[str, Any]] | Any:
    """
    Load the datasets of `DATASETS.TRAIN` together as Detectron2's train loader does.

    If `MODEL.FOCAL.DATA.CHECK` is "drop", invalid boxes are dropped. With `MODEL.MASK_ON`, objects
    without a mask are dropped too. With `MODEL.FOCAL.ANCHOR_LABELS.UNLABELED` "background", every
    image counts as completely labeled.

    Args:
        options: further arguments of Detectron2's `get_detection_dataset_dicts`.

    Returns:
        dataset dicts, or a PyTorch dataset if the first dataset is one.

    Raises:
        ValueError: `MODEL.FOCAL.ANCHOR_LABELS.UNLABELED` has an illegal value.
    """
    key = "MODEL.FOCAL.ANCHOR_LABELS.UNLABELED"
    unlabeled = check_choice(key, cfg.MODEL.FOCAL.ANCHOR_LABELS.UNLABELED, UNLABELED_POLICIES)
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    dataset = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=keypoints,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        **options,
    )
    if not isinstance(dataset, list):
        return dataset
    if unlabeled == "background":
        dataset = [completely_labeled(image) for image in dataset]
    if cfg.MODEL.FOCAL.DATA.CHECK != "drop":
        return dataset
    dataset = drop_impossible_boxes(dataset)
    return _drop_objects_without_mask(dataset) if cfg.MODEL.MASK_ON else dataset


def _drop_objects_without_mask(dicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return new dicts in which each object has a mask; crowd regions are kept."""
    kept = [
        {**image, "annotations": [x for x in image["annotations"] if has_mask(x)]}
        if "annotations" in image
        else image
        for image in dicts
    ]
    num = sum(
        len(old.get("annotations", ())) - len(new.get("annotations", ()))
        for old, new in zip(dicts, kept, strict=True)
    )
    if num:
        logger.warning(f"dropped {num} objects without a mask")
    return kept
