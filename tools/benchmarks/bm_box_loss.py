#!/usr/bin/env python3
r"""
Benchmark of RetinaNet's box loss, forward and backward.

The input is the output of the head's last convolution. Our loss encodes and compares only the
positive anchors; Detectron2's own steps encode all anchors.

    $ python tools/benchmarks/bm_box_loss.py --size 800 1344
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.modeling.meta_arch.retinanet import permute_to_N_HWA_K
from detectron2.structures import Boxes
from harness import Work, add_arguments, extra_peaks_mib, report, take_turns
from torch import Tensor

from focal_plugin.losses import GIoULoss, SmoothL1Loss
from focal_plugin.modeling.dense_losses import DenseBatch, DenseLossMixin
from focal_plugin.modeling.dense_targets import DenseTargets
from focal_plugin.modeling.retinanet import view_as_anchors

STRIDES = (8, 16, 32, 64, 128)
TRANSFORM = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
LOSSES = {"smooth_l1": SmoothL1Loss(beta=0.1), "giou": GIoULoss()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, rounds=15)
    parser.add_argument("--batch", type=int, default=2, help="images (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("H", "W"))
    parser.add_argument(
        "--positives", type=int, default=200, help="anchors per image (default: %(default)s)"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    variants = make_variants(args)
    peaks = extra_peaks_mib(variants, args)
    timings = take_turns(variants, args.rounds)
    rows = []
    for name, timing in timings.items():
        loss = name.split(", ")[0]
        stock = timings[f"{loss}, stock"]
        rows.append(
            {
                "loss": name,
                "ms": timing.median_ms,
                "p20": timing.p20_ms,
                "p80": timing.p80_ms,
                "CPU ms": timing.cpu_ms,
                "x stock": stock.median_ms / timing.median_ms,
                "extra MiB": peaks[name],
            }
        )
    report(rows, file=args.json, batch=args.batch, size=args.size, positives=args.positives)


def make_variants(args: argparse.Namespace) -> dict[str, Work]:
    generator = torch.Generator().manual_seed(0)
    sizes = [[-(-x // stride) for x in args.size] for stride in STRIDES]
    features = [torch.empty(args.batch, 1, *size) for size in sizes]
    octaves = [[4 * stride * 2 ** (i / 3) for i in range(3)] for stride in STRIDES]
    anchors = DefaultAnchorGenerator(
        sizes=octaves, aspect_ratios=[[0.5, 1.0, 2.0]], strides=STRIDES, offset=0.0
    )(features)
    outputs = [
        torch.randn(args.batch, 36, *size, generator=generator).mul_(0.1).requires_grad_()
        for size in sizes
    ]
    num_anchors = sum(map(len, anchors))
    positives = torch.zeros(args.batch, num_anchors, dtype=torch.bool)
    for of_image in positives:
        of_image[torch.randperm(num_anchors, generator=generator)[: args.positives]] = True
    shifts = torch.randn(args.batch, num_anchors, 4, generator=generator)
    gt_boxes = list(Boxes.cat(anchors).tensor + shifts)
    given = (outputs, anchors, positives, gt_boxes)
    variants: dict[str, Work] = {}
    for loss in LOSSES:
        variants[f"{loss}, stock"] = functools.partial(backward, stock, loss, *given)
        variants[f"{loss}, ours"] = functools.partial(backward, ours, loss, *given)
    return variants


def backward(
    make: Callable[..., Tensor], loss: str, outputs: list[Tensor], *given: Any
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(make(loss, outputs, *given), outputs)


def stock(
    loss: str,
    outputs: list[Tensor],
    anchors: list[Boxes],
    positives: Tensor,
    gt_boxes: list[Tensor],
) -> Tensor:
    """Compute the loss as `RetinaNet.forward` and `RetinaNet.losses` do."""
    return _dense_box_regression_loss(
        [*anchors],
        TRANSFORM,
        [permute_to_N_HWA_K(x, 4) for x in outputs],
        gt_boxes,
        positives,
        box_reg_loss_type=loss,
        smooth_l1_beta=0.1,
    )


def ours(
    loss: str,
    outputs: list[Tensor],
    anchors: list[Boxes],
    positives: Tensor,
    gt_boxes: list[Tensor],
) -> Tensor:
    """Compute the loss as FocalRetinaNet does."""
    batch = DenseBatch(
        anchors=Boxes.cat(anchors).tensor,
        logits=[],
        deltas=[view_as_anchors(x, 4) for x in outputs],
        targets=DenseTargets(positives.long(), gt_boxes),
        box_outputs=None,
    )
    return Detector(loss)._box_loss(batch, positives, None, torch.ones(1))


class Detector(DenseLossMixin):
    def __init__(self, loss: str) -> None:
        self.box_loss = LOSSES[loss]
        self.box2box_transform = TRANSFORM


if __name__ == "__main__":
    main()
