"""Objects that Detectron2's mapper drops or fails on, found without decoding an image."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.utils.file_io import PathManager
from PIL import Image

CHUNK = 1000
"""Number of objects that are mapped together, as if on one image."""

BITMASK_CHUNK = 30
"""The same for bitmasks, each of which has the size of the image."""

NUM_BITMASKS = 20_000
"""
Number of objects, evenly spread, that are mapped to bitmasks, which takes about 0.7 ms each.

With more objects, all of them are mapped as boxes too.
"""


class Lost(NamedTuple):
    """
    Object that is not trained.

    Attributes:
        image: its dataset dict.
        position: its position in the annotations of the image.
        reason: why the mapper drops it.
        rule: "object-lost", or "mapper-fails" if the mapper raises an error.
    """

    image: dict[str, Any]
    position: int
    reason: str
    rule: str = "object-lost"


class _Object(NamedTuple):
    image: dict[str, Any]
    position: int


def lost_by_mapper(cfg: CfgNode, dicts: Sequence[dict[str, Any]]) -> list[Lost]:
    """
    Return the objects that Detectron2's mapper drops, or fails on, without augmentation.

    The mapper itself decides, with the masks and keypoints that the config loads. Images whose
    size is neither stated nor readable are left out.

    Args:
        dicts: in Detectron2's standard format; they do not change.
    """
    by_size: dict[tuple[int, int], list[_Object]] = defaultdict(list)
    for image in dicts:
        objects = [
            _Object(image, position)
            for position, annotation in enumerate(image.get("annotations", ()))
            if not annotation.get("iscrowd", 0)
        ]
        size = _size_of(image) if objects else None
        if size is not None:
            by_size[size].extend(objects)
    bitmasks = cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "bitmask"
    if not bitmasks:
        return list(_lost(_mapper(cfg, cfg.INPUT.MASK_FORMAT), by_size, CHUNK))
    num = sum(map(len, by_size.values()))
    step = max(1, -(-num // NUM_BITMASKS))
    some = {size: objects[::step] for size, objects in by_size.items()}
    lost = list(_lost(_mapper(cfg, "bitmask"), some, BITMASK_CHUNK))
    if step == 1:
        return lost
    boxes = DatasetMapper(is_train=True, augmentations=[], image_format=cfg.INPUT.FORMAT)
    known = {(id(x.image), x.position) for x in lost}
    others = _lost(boxes, by_size, CHUNK)
    return lost + [x for x in others if (id(x.image), x.position) not in known]


def _mapper(cfg: CfgNode, mask_format: str) -> DatasetMapper:
    return DatasetMapper(
        is_train=True,
        augmentations=[],
        image_format=cfg.INPUT.FORMAT,
        use_instance_mask=cfg.MODEL.MASK_ON,
        use_keypoint=cfg.MODEL.KEYPOINT_ON,
        instance_mask_format=mask_format,
    )


def _lost(
    mapper: DatasetMapper, by_size: dict[tuple[int, int], list[_Object]], chunk: int
) -> Iterator[Lost]:
    for size, objects in by_size.items():
        for start in range(0, len(objects), chunk):
            yield from _lost_of_chunk(mapper, size, objects[start : start + chunk])


def _lost_of_chunk(
    mapper: DatasetMapper, size: tuple[int, int], objects: list[_Object]
) -> Iterator[Lost]:
    # The number of the object stands in for its class, so that the result tells what is left.
    numbered = [
        _copied(x.image["annotations"][x.position], number) for number, x in enumerate(objects)
    ]
    mapped: dict[str, Any] = {"annotations": numbered}
    try:
        mapper._transform_annotations(mapped, T.TransformList([]), size)
    except Exception as error:  # of any kind, as the annotations may hold anything
        if len(objects) == 1:
            yield Lost(*objects[0], f"{type(error).__name__}: {error}", rule="mapper-fails")
            return
        middle = len(objects) // 2
        yield from _lost_of_chunk(mapper, size, objects[:middle])
        yield from _lost_of_chunk(mapper, size, objects[middle:])
        return
    left = set(mapped["instances"].gt_classes.tolist())
    for number, one in enumerate(objects):
        if number not in left:
            box = one.image["annotations"][one.position].get("bbox")
            yield Lost(*one, f"bbox {box} has no area, or its mask none, inside the image")


def _copied(annotation: dict[str, Any], number: int) -> dict[str, Any]:
    copied = {**annotation, "category_id": number, "iscrowd": 0}
    if "keypoints" in annotation:  # the mapper changes an array in place
        copied["keypoints"] = copy.deepcopy(annotation["keypoints"])
    return copied


def _size_of(image: dict[str, Any]) -> tuple[int, int] | None:
    """Return the height and the width, from the file if the dict does not state them."""
    if "height" in image and "width" in image:
        return image["height"], image["width"]
    try:
        with Image.open(PathManager.get_local_path(image["file_name"])) as opened:
            return opened.height, opened.width
    except Exception:  # each decoder raises its own
        return None
