#!/usr/bin/env python3
"""
Check the audit of a dataset against a count with Detectron2's own, dense operations.

The count builds the stock RetinaNet of the config, and matches every anchor with every object
through stock's `pairwise_iou` and `Matcher`. It shares no code with the audit, and takes about a
second per image at 800 px.

    python tools/check_audit.py train.json:images --input-size 256

Exit code: 0 if all figures are equal, 1 if one differs, 2 if the dataset has no objects.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data import detection_utils as stock
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.structures import Boxes, pairwise_iou
from tabulate import tabulate

from focal_plugin.audit import audit_config
from focal_plugin.data import register_datasets
from focal_plugin.dataset_config import config_of_flags

BASE = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
NAME = "audited"
IOUS = (0.4, 0.5, 0.7)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures of both, and return the exit code."""
    args = _parser().parse_args(argv)
    register_datasets([f"{NAME}={args.dataset}"])
    try:
        cfg = _config(args.config_file, args.input_size, args.opts)
        facts = audit_config(cfg).facts
        if not facts["images"]["objects"]:
            print(f"{args.dataset} has no objects", file=sys.stderr)
            return 2
        rows = compare(facts, count(cfg))
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
    print(tabulate(rows, headers=("figure", "audit", "count", ""), floatfmt=".6g"))
    return int(any(row[-1] for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", metavar="JSON:IMAGES", help="annotation file and image folder")
    parser.add_argument("--config-file", default=BASE, help=f"of a RetinaNet; default: {BASE}")
    parser.add_argument("--input-size", type=int, default=800, help="shorter side; default: 800")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="further keys of the config")
    return parser


def _config(config_file: str, size: int, opts: Sequence[str]) -> CfgNode:
    classes = len(MetadataCatalog.get(NAME).thing_classes)
    keys: list[Any] = ["MODEL.RETINANET.NUM_CLASSES", classes, "INPUT.MIN_SIZE_TEST", size]
    keys += ["INPUT.MIN_SIZE_TRAIN", (size,), "DATASETS.TRAIN", (NAME,), "DATASETS.TEST", ()]
    return config_of_flags(config_file, datasets=[], opts=[*map(str, keys), *opts])


def count(cfg: CfgNode) -> dict[str, Any]:
    """
    Count the labels of all anchors of the training set, as stock RetinaNet gives them.

    Returns:
        figures by name: numbers, and lists by class or level.
    """
    model = _stock_model(cfg)
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    classes, best, positives, totals = [], [], [], np.zeros(3, dtype=np.int64)
    for image in get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    ):
        boxes, labels, size = _objects(image, resize)
        levels = _anchors(model, size)
        per_object, ignored, ious = _label(model, boxes, levels)
        classes += labels
        best += ious
        positives += per_object
        totals += (sum(map(len, levels)), ignored, 1)
    return _figures(np.array(classes), np.array(best), np.array(positives), totals, cfg)


def _stock_model(cfg: CfgNode) -> RetinaNet:
    cfg = cfg.clone()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "RetinaNet", "cpu"
    model = build_model(cfg)
    assert isinstance(model, RetinaNet)
    return model


def _objects(
    image: dict[str, Any], resize: T.ResizeShortestEdge
) -> tuple[Boxes, list[int], tuple[int, int]]:
    """Return the objects of an image as the mapper gives them, and the size of its input."""
    blank = np.zeros((image["height"], image["width"], 3), dtype=np.uint8)
    transform = resize.get_transform(blank)
    size = transform.apply_image(blank).shape[:2]
    own = [
        stock.transform_instance_annotations(dict(annotation), [transform], size)
        for annotation in image["annotations"]
        if not annotation.get("iscrowd", 0)
    ]
    found = stock.annotations_to_instances(own, size)
    return found.gt_boxes, found.gt_classes.tolist(), size


def _anchors(model: RetinaNet, size: tuple[int, int]) -> list[Boxes]:
    """Return the anchors of each level of an image that is padded alone."""
    unit = max(1, model.backbone.size_divisibility)
    padded = [-(-side // unit) * unit for side in size]
    strides = [model.backbone.output_shape()[name].stride for name in model.head_in_features]
    shapes = [[-(-side // stride) for side in padded] for stride in strides]
    return model.anchor_generator([torch.empty(1, 1, *shape) for shape in shapes])


def _label(
    model: RetinaNet, boxes: Boxes, levels: list[Boxes]
) -> tuple[list[list[int]], int, list[float]]:
    """Return positives of each object by level, ignored anchors, and each object's best IoU."""
    if not len(boxes):
        return [], 0, []
    ious = pairwise_iou(boxes, Boxes.cat(levels))
    best = ious.amax(dim=1)
    # stock makes every background anchor positive for an object without any overlap
    owner, label = model.anchor_matcher(ious[best > 0])
    owner = torch.arange(len(boxes))[best > 0][owner]
    sizes = [len(anchors) for anchors in levels]
    by_level = torch.stack(
        [
            torch.bincount(objects[labels == 1], minlength=len(boxes))
            for objects, labels in zip(owner.split(sizes), label.split(sizes), strict=True)
        ]
    )
    return by_level.T.tolist(), int((label == -1).sum()), best.tolist()


def _figures(
    classes: np.ndarray, best: np.ndarray, positives: np.ndarray, totals: np.ndarray, cfg: CfgNode
) -> dict[str, Any]:
    anchors, ignored, images = totals.tolist()
    num_pos = int(positives.sum())
    own = [classes == index for index in range(cfg.MODEL.RETINANET.NUM_CLASSES)]
    found = positives.sum(axis=1)
    return {
        "images": images,
        "objects": [int(mask.sum()) for mask in own],
        "anchors per image": anchors / images,
        "ignored per image": ignored / images,
        "background per positive": (anchors - ignored - num_pos) / num_pos,
        "positives": [int(found[mask].sum()) for mask in own],
        "positives by level": (positives.sum(axis=0) / num_pos).tolist(),
        "objects without positives": [_share(found[mask] == 0) for mask in own],
        **{
            f"recall at IoU {iou}": [_share(best[mask] >= np.float32(iou)) for mask in own]
            for iou in IOUS
        },
    }


def _share(mask: np.ndarray) -> float | None:
    return float(mask.mean()) if len(mask) else None


def compare(facts: dict[str, Any], counted: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return rows of figure, audit, count, and "differs" or ""."""
    per_class = facts["anchors"]["per_class"]
    audited = {
        "images": facts["images"]["images"],
        "objects": [row["objects"] for row in facts["classes"]["per_class"]],
        "anchors per image": facts["background"]["anchors"]["mean"],
        "ignored per image": facts["background"]["ignored"]["mean"],
        "background per positive": facts["background"]["bg_fg"],
        "positives": [row["positives"] for row in per_class],
        "positives by level": facts["anchors"]["positives_by_level"],
        "objects without positives": [row["without_positives"] for row in per_class],
        **{f"recall at IoU {iou}": [row["recall"][f"{iou}"] for row in per_class] for iou in IOUS},
    }
    return list(_rows(audited, counted))


def _rows(audited: dict[str, Any], counted: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    for name, count_of in counted.items():
        audited_of = np.array(audited[name], dtype=np.float64).ravel()  # None becomes NaN
        counted_of = np.array(count_of, dtype=np.float64).ravel()
        equal = np.isclose(audited_of, counted_of, rtol=1e-9, equal_nan=True)
        for place, row in enumerate(zip(audited_of, counted_of, equal, strict=True)):
            label = f"{name} [{place}]" if isinstance(count_of, list) else name
            yield label, *row[:2], "" if row[2] else "differs"


if __name__ == "__main__":
    sys.exit(main())
