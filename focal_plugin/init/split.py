"""Split of one COCO file into a training and a validation file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data import DataError
from ..files import sha256_of
from .stratify import stratified_split

SHARE = 0.2
"""Share of the images in the validation part."""


class Split(NamedTuple):
    """
    Two parts of a COCO file, each with all of its fields.

    Attributes:
        copies: images that are byte-equal to another one of the file; they stay together.
    """

    train: dict[str, Any]
    val: dict[str, Any]
    copies: int


def split_coco(
    content: dict[str, Any], image_root: Path, *, share: float = SHARE, seed: int = 0
) -> Split:
    """
    Split the images of a COCO file, stratified by class, with equal image files in one part.

    Args:
        content: a COCO file without errors. Its fields beside images and annotations are kept.
        image_root: folder of the images.
        share: share of the images in the validation part, in (0, 1).
        seed: seed of the split, >= 0. The same file and seed give the same split.

    Raises:
        DataError: there are too few different images for two parts.
    """
    images = content["images"]
    digests = [sha256_of(image_root / image["file_name"]) for image in images]
    groups = {digest: index for index, digest in enumerate(dict.fromkeys(digests))}
    group_of = np.array([groups[digest] for digest in digests], dtype=np.int64)
    holding = _holding(content, group_of, len(groups))
    is_val = stratified_split(
        np.bincount(group_of, minlength=len(groups)), holding, share=share, seed=seed
    )[group_of]
    if is_val.all() or not is_val.any():
        raise DataError(
            f"too few images to split into training and validation: {len(groups)} without copies; "
            "give --val JSON:IMAGES"
        )
    return Split(_part(content, ~is_val), _part(content, is_val), len(images) - len(groups))


def _holding(content: dict[str, Any], group_of: np.ndarray, groups: int) -> np.ndarray:
    """Return how many images of each group have an object of each class, (G, K)."""
    index_of = {image["id"]: index for index, image in enumerate(content["images"])}
    class_of = {category["id"]: index for index, category in enumerate(content["categories"])}
    pairs = {
        (index_of[x["image_id"]], class_of[x["category_id"]])
        for x in content["annotations"]
        if _is_object(x)
    }
    holding = np.zeros((groups, len(class_of)), dtype=np.int64)
    for image, category in pairs:
        holding[group_of[image], category] += 1
    return holding


def _is_object(annotation: dict[str, Any]) -> bool:
    return not (annotation.get("iscrowd", 0) or annotation.get("ignore", 0))


def _part(content: dict[str, Any], kept: np.ndarray) -> dict[str, Any]:
    images = [image for image, keep in zip(content["images"], kept, strict=True) if keep]
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    annotations = [x for image in images for x in by_image[image["id"]]]
    return {**content, "images": images, "annotations": annotations}


def one_sided_classes(parts: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the classes that have an object in one of two parts only."""
    found = [{x["category_id"] for x in part["annotations"] if _is_object(x)} for part in parts]
    return [
        c["name"] for c in parts[0]["categories"] if (c["id"] in found[0]) != (c["id"] in found[1])
    ]
