"""Removal of invalid boxes, which Detectron2 would silently turn into other boxes."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from .coco_rules import fit_float32

logger = logging.getLogger(__name__)

NUM_NAMED = 5
"""Number of images with a dropped box that the log names."""


def drop_impossible_boxes(dicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Drop annotations whose box is infinite or has a negative width or height.

    Detectron2 would clip an infinite box to the border. It would swap the corners of a negative
    one, which moves the box. The number of dropped boxes is logged. An image that loses all its
    annotations is kept, without objects.

    Args:
        dicts: in Detectron2's standard format. Only boxes in `XYWH_ABS` or `XYXY_ABS` are checked.

    Returns:
        a new list. An image without such a box is the same dict; no argument is changed.
    """
    kept = [_without_impossible(image) for image in dicts]
    changed = [(old, new) for old, new in zip(dicts, kept, strict=True) if old is not new]
    if changed:
        num = sum(len(old["annotations"]) - len(new["annotations"]) for old, new in changed)
        names = ", ".join(str(old.get("file_name")) for old, _ in changed[:NUM_NAMED])
        more = f" and {len(changed) - NUM_NAMED} more" if len(changed) > NUM_NAMED else ""
        logger.warning(
            f"dropped {num} boxes that are infinite or have a negative width or height, in "
            f"{len(changed)} images: {names}{more}"
        )
    return kept


def _without_impossible(image: dict[str, Any]) -> dict[str, Any]:
    annotations = image.get("annotations", [])
    possible = [annotation for annotation in annotations if not _is_impossible(annotation)]
    if len(possible) == len(annotations):
        return image
    return {**image, "annotations": possible}


def _is_impossible(annotation: dict[str, Any]) -> bool:
    box: Sequence[float] = annotation.get("bbox", ())
    mode = annotation.get("bbox_mode")
    if len(box) != 4 or mode not in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        return False
    x, y, width, height = box
    if mode == BoxMode.XYXY_ABS:
        width, height = width - x, height - y
    if any(map(math.isnan, box)):
        return False  # Detectron2 drops such a box itself
    return width < 0 or height < 0 or not fit_float32(np.array([[x, y, width, height]])).all()
