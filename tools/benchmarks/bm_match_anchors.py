#!/usr/bin/env python3
r"""
Benchmark of anchor matching: ours against Detectron2's IoU matrix.

    $ python tools/benchmarks/bm_match_anchors.py
    $ python tools/benchmarks/bm_match_anchors.py --objects 1000 --size 1600 2688

Two functions are measured, for one image. "match" gives each anchor an object and a label; in
Detectron2 this is `pairwise_iou` and `Matcher`. "label_anchors" is the method of RetinaNet, which
also gives each anchor the class and the box of its object. All variants of a function give the same
bits, which is checked first.

Columns: "extra MiB" is the peak memory in addition to the memory before, including the results;
"beyond results" excludes the results.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import torch
from detectron2.modeling import RetinaNet
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from harness import Work, add_arguments, extra_peaks_mib, report, take_turns
from torch import Tensor

from focal_plugin.modeling import FocalRetinaNet
from focal_plugin.modeling.matcher import AnchorMatcher
from focal_plugin.ops.extension import has_extension
from focal_plugin.ops.match_anchors import match_anchors

STRIDES = (8, 16, 32, 64, 128)
THRESHOLDS = [0.4, 0.5]
LABELS = [0, -1, 1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, rounds=11)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 7, 20, 100], metavar="M")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("H", "W"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    anchors = make_anchors(*args.size)
    num_anchors = sum(map(len, anchors))
    pieces: dict[str, dict[str, Work]] = {}
    for num_objects in args.objects:
        objects = make_objects(num_objects, *args.size)
        pieces[f"match, {num_objects} objects"] = matching(objects, Boxes.cat(anchors))
        pieces[f"label_anchors, {num_objects} objects"] = labeling(objects, anchors)
    peaks = extra_peaks_mib(
        {
            f"{piece}: {name}": work
            for piece, works in pieces.items()
            for name, work in works.items()
        },
        args,
    )
    rows = []
    for piece, works in pieces.items():
        results_mib = check_equal(works)
        timings = take_turns(works, args.rounds)
        for name, timing in timings.items():
            peak = peaks[f"{piece}: {name}"]
            rows.append(
                {
                    "work": piece,
                    "variant": name,
                    "ms": timing.median_ms,
                    "p20": timing.p20_ms,
                    "p80": timing.p80_ms,
                    "CPU ms": timing.cpu_ms,
                    "x stock": timings["stock"].median_ms / timing.median_ms,
                    "extra MiB": peak,
                    "beyond results": max(peak - results_mib, 0.0),
                }
            )
    print(f"{num_anchors} anchors")
    report(rows, file=args.json, num_anchors=num_anchors)


def make_anchors(height: int, width: int) -> list[Boxes]:
    """Return RetinaNet's anchors on five levels, nine per location."""
    sizes = [[4 * stride * 2 ** (octave / 3) for octave in range(3)] for stride in STRIDES]
    generator = DefaultAnchorGenerator(sizes=sizes, aspect_ratios=[[0.5, 1, 2]], strides=STRIDES)
    shapes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    return generator([torch.zeros(1, 1, *shape) for shape in shapes])


def make_objects(count: int, height: int, width: int) -> Instances:
    """Draw boxes with sides from 12 to 400 pixels, log-uniform."""
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([width, height])
    center = torch.rand(count, 2, generator=generator) * size
    side = 12 * (400 / 12) ** torch.rand(count, 2, generator=generator)
    boxes = Boxes(torch.cat([center - side / 2, center + side / 2], dim=1))
    boxes.clip((height, width))
    classes = torch.randint(80, (count,), generator=generator)
    return Instances((height, width), gt_boxes=boxes, gt_classes=classes)


def matching(objects: Instances, anchors: Boxes) -> dict[str, Work]:
    boxes = objects.gt_boxes
    matcher = Matcher(THRESHOLDS, LABELS, allow_low_quality_matches=True)

    def ours(impl: str) -> Work:
        return lambda: match_anchors(
            [boxes.tensor], anchors.tensor, thresholds=THRESHOLDS, labels=LABELS, impl=impl
        )

    implementations = ["cpp"] if has_extension() else []
    return {
        "stock": lambda: matcher(pairwise_iou(boxes, anchors)),
        **{f"ours, {impl}": ours(impl) for impl in [*implementations, "eager"]},
    }


def labeling(objects: Instances, anchors: list[Boxes]) -> dict[str, Work]:
    """Return the variants; the stand-in has all attributes that the method reads."""
    stock = SimpleNamespace(
        anchor_matcher=Matcher(THRESHOLDS, LABELS, allow_low_quality_matches=True), num_classes=80
    )
    ours = SimpleNamespace(
        anchor_matcher=AnchorMatcher(THRESHOLDS, LABELS),
        assigner=None,
        num_classes=80,
        ignores_crowds=False,
    )

    def assign() -> tuple[Tensor, list[Tensor]]:
        targets = FocalRetinaNet.assign(
            ours,  # type: ignore[arg-type]  # the stand-in
            anchors,
            [objects],
        )
        return targets.labels, targets.gt_boxes

    return {
        "stock": lambda: RetinaNet.label_anchors(stock, anchors, [objects]),
        "ours": assign,
    }


def check_equal(works: dict[str, Work]) -> float:
    """Check that all variants give the same results, and return their size in MiB."""
    first, *others = (flatten(work()) for work in works.values())
    for other in others:
        if not all(torch.equal(a, b) for a, b in zip(first, other, strict=True)):
            raise AssertionError(f"{list(works)} do not agree")
    return sum(x.nbytes for x in first) / 2**20


def flatten(results: Any) -> list[Tensor]:
    """Return the tensors of one image, without an image dimension."""
    return [x[0] if isinstance(x, list) or x.shape[0] == 1 else x for x in results]


if __name__ == "__main__":
    main()
