#!/usr/bin/env python3
"""
Draw the anchors that each assigner gives to the objects of some images.

A dot is the center of positive anchors. It has the color of their object, and its area grows with
their number. Below an image are the smallest and the largest number of positives of an object. The
rules that read predictions see those of one detector, trained for some steps.

    python tools/plot_assignment.py                # docs/images/assignment/shapes.png
    python tools/plot_assignment.py --dataset cells=train.json:images --output cells.png
    python tools/plot_assignment.py --config-file my.yaml --steps 0 MODEL.WEIGHTS my_model.pth
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from focal_plugin.data.loading.crowd_mapper import CrowdDatasetMapper
from focal_plugin.dataset_config import config_of_flags
from focal_plugin.modeling import FocalRetinaNet, build_assigner
from focal_plugin.modeling.assigners import DensePredictions
from focal_plugin.modeling.dense_targets import DenseTargets
from focal_plugin.modeling.matcher import split_crowds
from focal_plugin.modeling.retinanet import view_as_anchors

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "assignment" / "shapes.png"
BASE = "Shapes-Detection/retinanet_small.yaml"
SEED = 1

PER_ANCHOR = "MODEL.FOCAL.ASSIGNER.ATSS_PER_ANCHOR"
RULES: dict[str, tuple[Any, ...]] = {
    "max_iou": (),
    "atss": (),
    "atss, k in all": (PER_ANCHOR, False),
    "tal": (),
    "simota": (),
    "paa": (),
}
"""Keys of each rule; the first word of its title is its name."""


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    opts = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", *args.opts]
    cfg = config_of_flags(args.config_file, datasets=args.dataset, opts=opts)
    seed_all_rng(SEED)
    model = build_model(cfg)
    if not isinstance(model, FocalRetinaNet):
        raise SystemExit(f"the config must name a FocalRetinaNet, got {type(model).__name__}")
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    train(model, cfg, args.steps)
    figure = draw(model, cfg, load_images(cfg, args.images, args.objects))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save(figure, args.output, args.dpi)
    print(args.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default=BASE, help=f"of a RetinaNet; default: {BASE}")
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=JSON:IMAGES",
        help="in place of the config's own, or the name of a registered one",
    )
    parser.add_argument("--images", type=int, default=4, help="number of images; default: 4")
    parser.add_argument("--objects", type=int, default=6, help="at most, in an image; default: 6")
    parser.add_argument("--steps", type=int, default=100, help="of training; default: 100")
    parser.add_argument("--output", type=Path, default=PICTURE, help=f"default: {PICTURE.name}")
    parser.add_argument("--dpi", type=int, default=100, help="pixels per inch; default: 100")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="further keys of the config")
    return parser


def save(figure: plt.Figure, file: Path, dpi: int) -> None:
    """Save a figure with 256 colors, which makes a file half as large."""
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi)
    picture = Image.open(content).convert("RGB")
    picture.quantize(256, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)


def train(model: FocalRetinaNet, cfg: CfgNode, steps: int) -> None:
    """Train for some steps at the base learning rate, with the data in a fixed order."""
    if not steps:
        return
    optimizer = build_optimizer(cfg, model)
    loader = iter(build_detection_train_loader(cfg, mapper=CrowdDatasetMapper(cfg, is_train=True)))
    with EventStorage():
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = cfg.SOLVER.BASE_LR * min(1.0, (step + 1) / 20)
            losses = model(next(loader))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()


def load_images(cfg: CfgNode, count: int, most: int) -> list[dict[str, Any]]:
    """Load the first images of the first dataset that have two to ``most`` objects."""
    mapper = CrowdDatasetMapper(cfg, is_train=True)
    mapper.augmentations = T.AugmentationList(build_augmentation(cfg, is_train=False))
    name = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)[0]
    dicts = [x for x in DatasetCatalog.get(name) if 2 <= _num_objects(x) <= most]
    return [mapper(x) for x in dicts[:count]]


def _num_objects(image: dict[str, Any]) -> int:
    return sum(not annotation.get("iscrowd") for annotation in image["annotations"])


@torch.no_grad()
def targets_of(model: FocalRetinaNet, image: dict[str, Any]) -> tuple[Tensor, DenseTargets]:
    """Return all anchors (R, 4) of an image, and their targets."""
    features = model.backbone(model.preprocess_image([image]).tensor)
    of_levels = [features[name] for name in model.head_in_features]
    logits, deltas = model.head(of_levels)
    predictions = DensePredictions(
        [view_as_anchors(x, model.num_classes) for x in logits],
        [view_as_anchors(x, 4) for x in deltas],
        model.box2box_transform,
    )
    anchors = model.anchor_generator(of_levels)
    targets = model.assign(anchors, [image["instances"]], predictions)
    return torch.cat([boxes.tensor for boxes in anchors]), targets


def draw(model: FocalRetinaNet, cfg: CfgNode, images: list[dict[str, Any]]) -> plt.Figure:
    """Draw one row for each image, and one column for each rule."""
    model.eval()
    _, height, width = images[0]["image"].shape
    size = (2.1 * len(RULES), (2 * height / width + 0.3) * len(images) + 0.2)
    figure, grid = plt.subplots(len(images), len(RULES), figsize=size, squeeze=False)
    for (title, opts), column in zip(RULES.items(), grid.T, strict=True):
        changed = cfg.clone()
        changed.merge_from_list([*opts, "MODEL.FOCAL.ASSIGNER.NAME", title.partition(",")[0]])
        model.assigner = build_assigner(changed)
        column[0].set_title(title, fontsize=11)
        for axes, image in zip(column, images, strict=True):
            _draw_image(axes, image, *targets_of(model, image), num_classes=model.num_classes)
    figure.tight_layout(pad=0.4)
    return figure


def _draw_image(
    axes: Axes, image: dict[str, Any], anchors: Tensor, targets: DenseTargets, num_classes: int
) -> None:
    pixels = image["image"].flip(0).permute(1, 2, 0).numpy()  # BGR
    axes.imshow(pixels // 2 + 120)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(0, pixels.shape[1])
    axes.set_ylim(pixels.shape[0], 0)
    labels, objects = targets.labels[0], targets.objects
    assert objects is not None
    counts = []
    instances, _ = split_crowds(image["instances"])
    for g, box in enumerate(instances.gt_boxes.tensor.tolist()):
        color = plt.get_cmap("tab10")(g % 10)
        x1, y1, x2, y2 = box
        axes.add_patch(
            plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.2)
        )
        positive = (labels >= 0) & (labels < num_classes) & (objects[0] == g)
        centers = (anchors[positive, :2] + anchors[positive, 2:]).numpy() / 2
        places, number = np.unique(centers.round(1), axis=0, return_counts=True)
        axes.scatter(
            places[:, 0], places[:, 1], s=7 * number, color=[color], edgecolors="k", linewidths=0.4
        )
        counts.append(len(centers))
    axes.set_xlabel(" to ".join(map(str, sorted({min(counts), max(counts)}))), fontsize=9)


if __name__ == "__main__":
    main()
