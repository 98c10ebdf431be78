#!/usr/bin/env python3
r"""
Benchmark of hard example mining (OHEM), alone and as part of the loss of a dense detector.

    $ python tools/benchmarks/bm_mining.py --size 800 1344
    $ python tools/benchmarks/bm_mining.py --batch 16 --classes 5 --size 128 128

Two states are measured. In the first step, the losses of all negatives are equal but for noise. In
a trained detector, the scores of anchors rise with their IoU with an object. So the losses of
positives are low, and those of their neighbors are high.

Works: "mining" selects the anchors of all images by their losses and boxes. "loss" is the forward
and backward pass of both losses, from the output of the last convolutions, with the mining. "RoIs"
selects 512 of 2,000 proposals of each image, with suppression within each label. "torchvision" is
its `nms` over the 4,096 anchors of highest loss in each image, or over the proposals of each label.

Columns: "time" is in multiples of the first variant of a work. "extra MiB" is the peak memory in
addition to the memory before, including the results.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from bm_match_anchors import make_anchors, make_objects
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes
from harness import Work, add_arguments, extra_peaks_mib, report, take_turns
from torch import Tensor
from torchvision.ops import nms

from focal_plugin.losses import SigmoidCrossEntropyLoss, SmoothL1Loss, elementwise_iou
from focal_plugin.mining import Miner, OHEMMiner, OHEMRatioMiner, selection, suppression
from focal_plugin.modeling.balance import FixedBalance
from focal_plugin.modeling.dense_losses import DenseLossMixin
from focal_plugin.modeling.dense_targets import DenseTargets
from focal_plugin.modeling.normalizer import EMANormalizer
from focal_plugin.modeling.retinanet import view_as_anchors
from focal_plugin.ops.extension import has_extension
from focal_plugin.ops.match_anchors import match_anchors

STRIDES = (8, 16, 32, 64, 128)
ANCHORS_PER_LOCATION = 9
PRIOR = -4.6  # logit of a probability of .01
TRANSFORM = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, rounds=11)
    parser.add_argument("--batch", type=int, default=2, help="images (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=80, metavar="K")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("H", "W"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    works = {"RoIs": mining_rois(args)}
    for state in ("first step", "trained"):
        step = DenseStepInput(args, trained=state == "trained")
        works[f"mining, {state}"] = mining_anchors(step)
        works[f"loss, {state}"] = losses(step)
    peaks = extra_peaks_mib(
        {f"{work}: {x}": variants[x] for work, variants in works.items() for x in variants}, args
    )
    rows = []
    for work, variants in works.items():
        timings = take_turns(variants, args.rounds)
        first = next(iter(timings.values()))
        rows += [
            {
                "work": work,
                "variant": name,
                "ms": timing.median_ms,
                "p20": timing.p20_ms,
                "p80": timing.p80_ms,
                "CPU ms": timing.cpu_ms,
                "time": timing.median_ms / first.median_ms,
                "extra MiB": peaks[f"{work}: {name}"],
            }
            for name, timing in timings.items()
        ]
    num_anchors = sum(map(len, make_anchors(*args.size)))
    print(f"{args.batch} x {num_anchors} anchors, {args.classes} classes")
    report(rows, file=args.json, num_anchors=num_anchors)


class DenseStepInput:
    """Outputs of the last convolutions for images with seven objects each, and their targets."""

    def __init__(self, args: argparse.Namespace, *, trained: bool) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.anchors = make_anchors(*args.size)
        objects = [make_objects(7, *args.size).gt_boxes.tensor for _ in range(args.batch)]
        all_anchors = Boxes.cat(self.anchors).tensor
        matched, states = match_anchors(
            objects, all_anchors, thresholds=[0.4, 0.5], labels=[0, -1, 1]
        )
        classes = torch.randint(args.classes, (args.batch, 7), generator=self.generator)
        classes = classes.gather(1, matched)
        labels = torch.where(states == 1, classes, args.classes).masked_fill(states == -1, -1)
        gt_boxes = [boxes[index] for boxes, index in zip(objects, matched, strict=True)]
        self.targets = DenseTargets(labels, gt_boxes)
        sizes = [[-(-x // stride) for x in args.size] for stride in STRIDES]
        self.logits = [self._draw(args.batch, args.classes, size, 0.3) for size in sizes]
        self.deltas = [self._draw(args.batch, 4, size, 0.05) for size in sizes]
        with torch.no_grad():
            views = [view_as_anchors(x, args.classes) for x in self.logits]
            for view in views:
                view += PRIOR
            if trained:
                self._raise(views, classes, gt_boxes)
        for output in (*self.logits, *self.deltas):
            output.requires_grad_()

    def _draw(self, batch: int, columns: int, size: list[int], scale: float) -> Tensor:
        shape = (batch, ANCHORS_PER_LOCATION * columns, *size)
        return torch.randn(shape, generator=self.generator).mul_(scale)

    def _raise(self, views: list[Tensor], classes: Tensor, gt_boxes: list[Tensor]) -> None:
        """Raise the logit of the nearest object by its IoU with the anchor."""
        all_anchors = Boxes.cat(self.anchors).tensor
        ious = torch.stack([elementwise_iou(all_anchors, boxes) for boxes in gt_boxes])
        gains = 12 * (ious - 0.2).clamp(min=0)
        first = 0
        for view in views:
            size = view[0, ..., 0].numel()
            of_level = slice(first, first + size)
            index = classes[:, of_level].view(view.shape[:-1]).unsqueeze(-1)
            gain = gains[:, of_level].view(view.shape[:-1]).unsqueeze(-1)
            view.scatter_(-1, index, view.gather(-1, index) + gain)
            first += size


class Detector(DenseLossMixin):
    """Losses of a detector, with a miner or without one."""

    def __init__(self, miner: Miner | None) -> None:
        self.cls_loss = SigmoidCrossEntropyLoss()
        self.box_loss = SmoothL1Loss(beta=0.1)
        self.box_weighted_by = ""
        self.normalizer = EMANormalizer()
        self.balance = FixedBalance()
        self.shared_features = self.reweighting = self.carl = None
        self.miner = miner
        self.box2box_transform = TRANSFORM


def losses(step: DenseStepInput) -> dict[str, Work]:
    num_classes = step.logits[0].shape[1] // ANCHORS_PER_LOCATION
    detectors = {
        "cross entropy": Detector(None),
        "OHEM": Detector(OHEMMiner(num_classes=num_classes)),
        "OHEM 1:3": Detector(OHEMRatioMiner(num_classes=num_classes)),
    }

    def backward(detector: Detector) -> tuple[Tensor, ...]:
        result = detector.dense_losses(
            step.anchors,
            [view_as_anchors(x, num_classes) for x in step.logits],
            step.targets,
            [view_as_anchors(x, 4) for x in step.deltas],
        )
        return torch.autograd.grad(result.loss_cls + result.loss_box, [*step.logits, *step.deltas])

    return {name: functools.partial(backward, x) for name, x in detectors.items()}


@torch.no_grad()
def mining_anchors(step: DenseStepInput) -> dict[str, Work]:
    num_classes = step.logits[0].shape[1] // ANCHORS_PER_LOCATION
    loss = torch.cat(
        [
            SigmoidCrossEntropyLoss().per_anchor(rows, labels)
            for rows, labels in zip(
                [view_as_anchors(x, num_classes).flatten(1, -2) for x in step.logits],
                step.targets.labels.split([len(x) for x in step.anchors], dim=1),
                strict=True,
            )
        ],
        dim=1,
    )
    deltas = torch.cat([view_as_anchors(x, 4).flatten(1, -2) for x in step.deltas], dim=1)
    anchors = Boxes.cat(step.anchors).tensor
    boxes = torch.stack([TRANSFORM.apply_deltas(of_image, anchors) for of_image in deltas])
    given = loss, step.targets.labels, boxes
    return {
        "torchvision": functools.partial(nms_of_hardest, *given),
        **variants_of("OHEM", OHEMMiner(num_classes=num_classes), *given),
        **variants_of("OHEM 1:3", OHEMRatioMiner(num_classes=num_classes), *given),
    }


def mining_rois(args: argparse.Namespace) -> dict[str, Work]:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.stack([make_objects(2000, *args.size).gt_boxes.tensor] * args.batch)
    loss = torch.rand(args.batch, 2000, generator=generator)
    labels = torch.randint(8 * args.classes, loss.shape, generator=generator)
    labels.clamp_(max=args.classes)
    miner = OHEMMiner(num_classes=args.classes, num_keep=512, nms_thresh=0.7, nms_per_label=True)
    return {
        "torchvision": functools.partial(nms_per_label, loss, labels, boxes),
        **variants_of("OHEM", miner, loss, labels, boxes),
    }


def variants_of(name: str, miner: Miner, *given: Tensor) -> dict[str, Work]:
    def mine(impl: str) -> Tensor:
        with implementation(impl):
            return miner(*given)

    implementations = ["cpp", "eager"] if has_extension() else ["eager"]
    return {f"{name}, {impl}": functools.partial(mine, impl) for impl in implementations}


@contextmanager
def implementation(impl: str) -> Iterator[None]:
    """Let mining use an implementation of its operations."""
    descending = functools.partial(suppression.descending, impl=impl)
    suppress = functools.partial(suppression.suppress, impl=impl)
    with (
        patch.object(selection, "descending", descending),
        patch.multiple(suppression, descending=descending, suppress=suppress),
    ):
        yield


def nms_of_hardest(loss: Tensor, labels: Tensor, boxes: Tensor) -> list[Tensor]:
    kept = []
    for of_image, image_labels, image_boxes in zip(loss, labels, boxes, strict=True):
        scores = of_image.masked_fill(image_labels == -1, -torch.inf)
        hardest = scores.topk(min(4096, len(scores)), sorted=False).indices
        kept.append(hardest[nms(image_boxes[hardest], scores[hardest], 0.5)[:128]])
    return kept


def nms_per_label(loss: Tensor, labels: Tensor, boxes: Tensor) -> list[list[Tensor]]:
    return [
        [
            nms(image_boxes[image_labels == label], of_image[image_labels == label], 0.7)
            for label in image_labels.unique()
        ]
        for of_image, image_labels, image_boxes in zip(loss, labels, boxes, strict=True)
    ]


if __name__ == "__main__":
    main()
