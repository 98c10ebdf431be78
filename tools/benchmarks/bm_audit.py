#!/usr/bin/env python3
r"""
Benchmark of the audit of a random dataset, from the loaded annotations to the sentences.

    $ python tools/benchmarks/bm_audit.py --images 100000 --annotations 700000 --classes 80
    $ python tools/benchmarks/bm_audit.py --images 1 --annotations 200000 --classes 10

The config is RetinaNet's for COCO. Sizes are log-normal around 60 pixels, and class k has 1/k of
the objects of the first class. No image file exists, so none is read. The memory is the peak of
this process, with PyTorch and with the dataset in Detectron2's form, whose size is stated, too.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import harness
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from focal_plugin import get_cfg
from focal_plugin.audit import audit_config
from focal_plugin.config_file import find_config_file

NAME = "benchmark of the audit"
HEIGHT, WIDTH = 480, 640
MEDIAN_SIDE = 60


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--annotations", type=int, default=70_000, help="in all images together")
    parser.add_argument("--classes", type=int, default=80)
    harness.add_arguments(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dicts = draw(args.images, args.annotations, args.classes)
    DatasetCatalog.register(NAME, lambda: dicts)
    MetadataCatalog.get(NAME).thing_classes = [str(k) for k in range(args.classes)]
    row = measure(args.classes)
    harness.report([row], file=args.json, images=args.images, annotations=args.annotations)


def draw(num_images: int, num_annotations: int, num_classes: int) -> list[dict[str, Any]]:
    """Draw a dataset in Detectron2's form."""
    rng = np.random.default_rng(0)
    side = np.exp(rng.normal(np.log(MEDIAN_SIDE), 1, (num_annotations, 1)))
    shape = np.exp(rng.normal(0, 0.4, (num_annotations, 1)))
    sides = np.concatenate([side * shape, side / shape], axis=1).clip(3, [WIDTH - 1, HEIGHT - 1])
    boxes = np.concatenate([rng.uniform(0, [WIDTH, HEIGHT] - sides), sides], axis=1)
    weights = 1 / np.arange(1, num_classes + 1)
    classes = rng.choice(num_classes, num_annotations, p=weights / weights.sum())
    dicts: list[dict[str, Any]] = [
        {"file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH, "annotations": []}
        for i in range(num_images)
    ]
    images = rng.integers(0, num_images, num_annotations).tolist()
    for image, box, label in zip(images, boxes.tolist(), classes.tolist(), strict=True):
        annotation = {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": label}
        dicts[image]["annotations"].append(annotation)
    return dicts


def measure(num_classes: int) -> dict[str, Any]:
    """Return time and memory of one audit."""
    cfg = get_cfg()
    cfg.merge_from_file(str(find_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")))
    cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
    cfg.DATASETS.TRAIN = (NAME,)
    before = _peak_mib()
    start, start_cpu = time.perf_counter(), time.process_time()
    audit_config(cfg)
    return {
        "classes": num_classes,
        "s": time.perf_counter() - start,
        "cpu s": time.process_time() - start_cpu,
        "MiB before": before,
        "peak MiB": _peak_mib(),
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
