"""Splits of one COCO file: into training and validation, or into folds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..files import sha256_of
from .checks.findings import DataError
from .registration import DatasetArgument
from .stratify import stratified_parts


class Split(NamedTuple):
    """
    Two parts of a COCO file, each with all of its fields.

    Attributes:
        copies: images that are byte-equal to another one of the file; they stay together.
    """

    train: dict[str, Any]
    val: dict[str, Any]
    copies: int


def coco_file_of(name: str) -> DatasetArgument:
    """
    Return the COCO file of a registered dataset, as it was given.

    A built-in dataset is drawn before.

    Raises:
        DataError: no dataset has that name, or it has no COCO file.
    """
    metadata = MetadataCatalog.get(name)
    json_file = metadata.get("given_json_file") or metadata.get("json_file")
    image_root = metadata.get("image_root")
    if json_file and not Path(json_file).exists():
        DatasetCatalog.get(name)
    if not (json_file and image_root and Path(json_file).is_file()):
        raise DataError(f"the dataset {name} cannot be split: it has no COCO file")
    return DatasetArgument(name, Path(json_file), Path(image_root))


def split_coco(content: dict[str, Any], image_root: Path, *, share: float, seed: int = 0) -> Split:
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
    part, copies = _parts(content, image_root, (1 - share, share), seed)
    return _split(content, part == 1, copies)


def fold_coco(
    content: dict[str, Any], image_root: Path, *, folds: int, seed: int = 0
) -> list[Split]:
    """
    Split the images of a COCO file into the folds of a cross-validation, stratified by class.

    Equal image files are in one fold.

    Args:
        content: a COCO file without errors. Its fields beside images and annotations are kept.
        image_root: folder of the images.
        folds: number of folds, >= 2.
        seed: seed of the split, >= 0. The same file and seed give the same folds.

    Returns:
        one split per fold, whose validation part is the fold, and whose training part is the rest.

    Raises:
        DataError: there are too few different images for the folds.
    """
    part, copies = _parts(content, image_root, (1 / folds,) * folds, seed)
    return [_split(content, part == fold, copies) for fold in range(folds)]


def _parts(
    content: dict[str, Any], image_root: Path, shares: Sequence[float], seed: int
) -> tuple[np.ndarray, int]:
    """Return the part of each image, and the number of copies."""
    images = content["images"]
    digests = [sha256_of(image_root / image["file_name"]) for image in images]
    groups = {digest: index for index, digest in enumerate(dict.fromkeys(digests))}
    group_of = np.array([groups[digest] for digest in digests], dtype=np.int64)
    holding = _holding(content, group_of, len(groups))
    sizes = np.bincount(group_of, minlength=len(groups))
    part = stratified_parts(sizes, holding, shares=shares, seed=seed)[group_of]
    if len(np.unique(part)) < len(shares):
        raise DataError(f"too few images for {len(shares)} parts: {len(groups)} without copies")
    return part, len(images) - len(groups)


def _split(content: dict[str, Any], is_val: np.ndarray, copies: int) -> Split:
    return Split(_part(content, ~is_val), _part(content, is_val), copies)


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
