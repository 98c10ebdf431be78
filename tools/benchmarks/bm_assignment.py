#!/usr/bin/env python3
"""
Benchmark of the rules that assign anchors to objects, for one image.

    $ python tools/benchmarks/bm_assignment.py
    $ python tools/benchmarks/bm_assignment.py --objects 200 --size 1600 2688

The matrix of all pairs is the largest of what a rule could store: "pairs MiB" is one float32 for
each pair of an object and an anchor. "extra MiB" is the peak memory in addition to the memory
before, with the result.
"""

from __future__ import annotations

import argparse

import torch
from bm_match_anchors import STRIDES, make_anchors, make_objects
from harness import Work, add_arguments, extra_peaks_mib, report, take_turns
from torch import Tensor

from focal_plugin.assignment import atss_assign, paa_assign, simota_assign, tal_assign
from focal_plugin.assignment.pairs import centers_of

NUM_CLASSES = 80


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, rounds=7)
    parser.add_argument("--objects", type=int, nargs="+", default=[7, 50], metavar="M")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("H", "W"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    levels = [boxes.tensor for boxes in make_anchors(*args.size)]
    num_anchors = sum(map(len, levels))
    works = {
        f"{name}, {num_objects} objects": work
        for num_objects in args.objects
        for name, work in rules(levels, num_objects, *args.size).items()
    }
    peaks = extra_peaks_mib(works, args)
    rows = []
    for name, timing in take_turns(works, args.rounds).items():
        num_objects = int(name.split()[1])
        rows.append(
            {
                "rule": name,
                "ms": timing.median_ms,
                "p20": timing.p20_ms,
                "p80": timing.p80_ms,
                "CPU ms": timing.cpu_ms,
                "extra MiB": peaks[name],
                "pairs MiB": 4 * num_objects * num_anchors / 2**20,
            }
        )
    print(f"{num_anchors} anchors, {NUM_CLASSES} classes")
    report(rows, file=args.json, num_anchors=num_anchors)


def rules(levels: list[Tensor], num_objects: int, height: int, width: int) -> dict[str, Work]:
    """Return the work of each rule, with predictions near the anchors."""
    generator = torch.Generator().manual_seed(0)
    objects = make_objects(num_objects, height, width)
    gt_boxes, gt_classes = objects.gt_boxes.tensor, objects.gt_classes
    anchors = torch.cat(levels)
    logits = torch.randn(len(anchors), NUM_CLASSES, generator=generator) - 4
    boxes = anchors + torch.randn(anchors.shape, generator=generator)
    strides = [
        torch.full((len(x),), float(stride)) for x, stride in zip(levels, STRIDES, strict=True)
    ]
    place = (centers_of(anchors), torch.cat(strides))
    loss = torch.rand(len(anchors), generator=generator)
    return {
        "atss": lambda: atss_assign(levels, gt_boxes, anchors_per_location=9),
        "tal": lambda: tal_assign(logits, boxes, anchors, gt_boxes, gt_classes),
        "simota": lambda: simota_assign(logits, boxes, *place, gt_boxes, gt_classes),
        "paa": lambda: paa_assign(levels, gt_boxes, lambda index, _: loss[index]),
    }


if __name__ == "__main__":
    main()
