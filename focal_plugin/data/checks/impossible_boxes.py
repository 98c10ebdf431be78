"""Boxes that Detectron2 would turn into other boxes, and train on."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from detectron2.structures import BoxMode

logger = logging.getLogger(__name__)

NUM_NAMED = 5
"""How many of the images that lose a box are named in the log."""


def drop_impossible_boxes(dicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Leave out annotations whose box is infinite, or of a negative width or height. Detectron2 would
    clip the first to the border and swap the corners of the second, which is then a box elsewhere.
    How many there are is logged. An image that loses all its annotations stays, without objects.

    Args:
        dicts: in Detectron2's standard format. Only boxes that are `XYWH_ABS` or `XYXY_ABS` are
            looked at.

    Returns:
        a new list. An image that loses nothing is the same dict; no argument is changed.
    """
    kept = [_without_impossible(image) for image in dicts]
    changed = [(old, new) for old, new in zip(dicts, kept, strict=True) if old is not new]
    if changed:
        num = sum(len(old["annotations"]) - len(new["annotations"]) for old, new in changed)
        names = ", ".join(str(old.get("file_name")) for old, _ in changed[:NUM_NAMED])
        more = f" and {len(changed) - NUM_NAMED} more" if len(changed) > NUM_NAMED else ""
        logger.warning(
            f"dropped {num} boxes that are infinite, or of a negative width or height, in "
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
    # a NaN compares as False: Detectron2 leaves such a box out itself
    return width < 0 or height < 0 or any(map(math.isinf, box))
