#!/usr/bin/env python3
"""
Check the RetinaNet of this package against numbers that are published or known in closed form.

    python tools/check_published.py

The script builds the config for COCO with random weights, and Detectron2's own RetinaNet from its
model zoo at the same seed. No dataset, no weights and no network are needed. It compares:

* parameters and FLOPs with the numbers in Detectron2's tests, and with stock module by module;
* the focal loss of an anchor at the prior with its formula;
* the loss of the first two steps with its formula, and with stock.

Images of the first step have the mean color of a pixel, so every feature is 0 and every logit is at
the prior. The features of the second step are normally distributed with a deviation of 1.

Each KEY VALUE changes our config. Exit code: 0 if all numbers are equal, 1 if one differs.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.modeling import RetinaNet, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.analysis import FlopCountAnalysis, parameter_count
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import Tensor, nn

from focal_plugin.audit.detector import read_detector
from focal_plugin.audit.start_of_training import start_of, terms_of_labels
from focal_plugin.dataset_config import config_of_flags

NAME = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"

PARAMETERS = {"": 37_915_572, "backbone": 31_452_352}
GFLOP, GFLOP_SIZE = 146, 800
"""Published in `tests/test_model_analysis.py` of Detectron2; GFLOP for 800 x 800 pixels."""

CLASSES, PRIOR, ALPHA, GAMMA = 80, 0.01, 0.25, 2.0
"""Published in arXiv:1708.02002 sections 3 and 4."""

MEAN, MOMENTUM = 100.0, 0.9
"""Running mean of the positives in Detectron2's RetinaNet, before the first step."""

ROUNDING = 1e-5
NEAR_THE_PRIOR = 0.002
"""Relative tolerances: of float32, and of logits that spread around the prior."""

IMAGES, OBJECTS = 2, 4
MOST_ROWS = 20


@dataclass(frozen=True)
class Row:
    """
    One compared number.

    Attributes:
        source: the origin of the expected number.
        tolerance: largest relative difference.
    """

    figure: str
    source: str
    expected: float
    ours: float
    tolerance: float = 0.0

    @property
    def differs(self) -> bool:
        return not abs(self.ours - self.expected) <= self.tolerance * abs(self.expected)

    def cells(self) -> tuple[str, ...]:
        numbers = (text_of(self.expected), text_of(self.ours))
        tolerance = f"{self.tolerance:g}" if self.tolerance else "exact"
        return (self.figure, self.source, *numbers, tolerance, "no" if self.differs else "yes")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and return the exit code."""
    args = _parser().parse_args(argv)
    cfg = config_of_flags(NAME, datasets=[], opts=["MODEL.DEVICE", "cpu", *args.opts])
    stock, ours = build(stock_config()), build(cfg)
    rows = [
        *parameter_rows(stock, ours),
        *flop_rows(stock, ours, args.size),
        *anchor_rows(cfg),
        *step_rows(stock, ours, args.batch_size),
    ]
    headers = ("figure", "source", "expected", "ours", "tolerance", "equal")
    align = ("left", "left", "right", "right", "right", "left")
    cells = [row.cells() for row in rows]
    print(tabulate(cells, headers=headers, colalign=align, disable_numparse=True))
    return int(any(row.differs for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size",
        type=int,
        default=GFLOP_SIZE,
        help=f"side of the image of which FLOPs are counted; default: {GFLOP_SIZE}, as published",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=256,
        help="side of the images of both steps; default: 256",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes of our config")
    return parser


def stock_config() -> CfgNode:
    cfg = model_zoo.get_config(NAME)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def build(cfg: CfgNode) -> RetinaNet:
    torch.manual_seed(0)
    model = build_model(cfg)
    assert isinstance(model, RetinaNet)
    return model


def parameter_rows(stock: nn.Module, ours: nn.Module) -> list[Row]:
    expected, found = parameter_count(stock), parameter_count(ours)
    published = [
        Row(f"parameters of {name or 'the model'}", "published", number, found[name])
        for name, number in PARAMETERS.items()
    ]
    return published + module_rows("parameters", expected, found)


def flop_rows(stock: nn.Module, ours: nn.Module, size: int) -> list[Row]:
    expected, found = (count_flops(model, size) for model in (stock, ours))
    published = []
    if size == GFLOP_SIZE:
        gflop = int(found.by_operator()["conv"] / 1e9)
        published = [Row("GFLOP of convolutions", "published", GFLOP, gflop)]
    return published + module_rows("FLOP", expected.by_module(), found.by_module())


def count_flops(model: nn.Module, size: int) -> FlopCountAnalysis:
    image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        counts = FlopCountAnalysis(model.eval(), [{"image": image}])
        counts.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        counts.by_operator()
    return counts


def module_rows(what: str, stock: dict[str, int], ours: dict[str, int]) -> list[Row]:
    """Return the total, the number of modules that differ, and these modules."""
    names = list(dict.fromkeys([*stock, *ours]))
    rows = [Row(f"{what} of {x}", "stock", stock.get(x, 0), ours.get(x, 0)) for x in names if x]
    unequal = [row for row in rows if row.differs]
    count = Row(f"modules with other {what}, of {len(rows)}", "stock", 0, len(unequal))
    return [Row(f"{what} in all", "stock", stock[""], ours[""]), count, *unequal[:MOST_ROWS]]


def focal_losses() -> tuple[float, float]:
    """Return the focal loss of a positive and of a background anchor, in closed form."""
    positive = ALPHA * (1 - PRIOR) ** GAMMA * -math.log(PRIOR)
    negative = (1 - ALPHA) * PRIOR**GAMMA * -math.log1p(-PRIOR)
    return positive + (CLASSES - 1) * negative, CLASSES * negative


def anchor_rows(cfg: CfgNode) -> list[Row]:
    """Compare the losses of one anchor, as the audit reports them."""
    loss = terms_of_labels(start_of(read_detector(cfg))).loss
    names = ("loss of a positive anchor", "loss of a background anchor")
    numbers = (float(loss[0]), float(loss[-1]))
    return [
        Row(name, "formula", expected, ours, ROUNDING)
        for name, expected, ours in zip(names, focal_losses(), numbers, strict=True)
    ]


def step_rows(stock: RetinaNet, ours: RetinaNet, size: int) -> list[Row]:
    """Compare the losses of two steps with their formula, and with stock."""
    batch = make_batch(stock, size)
    positives, background = count_labels(stock, batch)
    of_positive, of_background = focal_losses()
    total = positives * of_positive + background * of_background
    mean = MEAN
    rows = []
    for step, tolerance in ((1, ROUNDING), (2, NEAR_THE_PRIOR)):
        mean = MOMENTUM * mean + (1 - MOMENTUM) * max(positives, 1)
        (theirs, _), (found, num_pos) = (
            train_step(model, batch, random_features=step == 2) for model in (stock, ours)
        )
        rows += [
            Row(f"positives per image, step {step}", "stock", positives / IMAGES, num_pos),
            Row(f"loss_cls, step {step}", "formula", total / mean, found["loss_cls"], tolerance),
            *(
                Row(f"{name}, step {step}", "stock", theirs[name], found[name], ROUNDING)
                for name in theirs
            ),
        ]
    return rows


def make_batch(stock: RetinaNet, size: int) -> list[dict[str, Any]]:
    """Return images of the mean color, with random objects."""
    generator = torch.Generator().manual_seed(0)
    mean: Any = stock.pixel_mean
    batch: list[dict[str, Any]] = []
    for _ in range(IMAGES):
        corner, side = torch.rand(2, OBJECTS, 2, generator=generator)
        corner, side = corner * size / 2, size / 8 + side * size / 3
        instances = Instances((size, size))
        instances.gt_boxes = Boxes(torch.cat([corner, corner + side], dim=1))
        instances.gt_classes = torch.randint(0, CLASSES, (OBJECTS,), generator=generator)
        batch.append({"image": mean.expand(3, size, size), "instances": instances})
    return batch


def count_labels(stock: RetinaNet, batch: list[dict[str, Any]]) -> tuple[int, int]:
    """Return the numbers of positive and of background anchors, as stock labels them."""
    images = stock.preprocess_image(batch)
    with torch.no_grad():
        features = stock.backbone(images.tensor)
    anchors = stock.anchor_generator([features[name] for name in stock.head_in_features])
    labels, _ = stock.label_anchors(anchors, [x["instances"] for x in batch])
    joined = torch.stack(labels)
    positive = (joined >= 0) & (joined < stock.num_classes)
    return int(positive.sum()), int((joined == stock.num_classes).sum())


def train_step(
    model: RetinaNet, batch: list[dict[str, Any]], *, random_features: bool
) -> tuple[dict[str, float], float]:
    """Return the losses and the logged positives per image of a step without an update."""
    hook = model.backbone.register_forward_hook(randomize) if random_features else None
    with torch.no_grad(), EventStorage() as storage:
        losses = model.train()(batch)
    if hook is not None:
        hook.remove()
    num_pos = storage.latest()["num_pos_anchors"][0]
    return {name: float(loss) for name, loss in losses.items()}, num_pos


def randomize(
    module: nn.Module, args: tuple[object, ...], features: dict[str, Tensor]
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(x.shape, generator=generator) for name, x in features.items()}


def text_of(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:.6g}"


if __name__ == "__main__":
    sys.exit(main())
