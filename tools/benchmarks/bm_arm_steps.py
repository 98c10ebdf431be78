#!/usr/bin/env python3
r"""
Benchmark of a training step of each arm, relative to that of its reference.

    $ python tools/benchmarks/bm_arm_steps.py --arms ce fl ohem ohem_1_3
    $ python tools/benchmarks/bm_arm_steps.py --arms stock roi_ohem roi_fl_softmax \
        --config-file configs/Shapes-Detection/faster_rcnn_small.yaml

A comparison takes as long as its slowest arm. All arms have the same weights where they have the
same layers, and take turns on the same noise images, with seven objects each. The first arm is the
reference.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch
from bm_training_step import Batch, build, make_batch, read_config, step, still
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from harness import Work, add_arguments, extra_peaks_mib, report, take_turns

from focal_plugin import arms

SHAPES = Path("configs/Shapes-Detection/retinanet_small.yaml")
WARMUP = 3
"""Steps that are not measured. An assigner that depends on predictions labels as it does later."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, rounds=9)
    parser.add_argument(
        "--arms", nargs="+", required=True, metavar="ARM", help="the first is the reference"
    )
    parser.add_argument(
        "--config-file", type=Path, default=SHAPES, help="base (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=16, help="images (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"))
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="further keys")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base = read_config(args)
    batch = make_batch(args.batch, *args.size, num_classes=num_classes(base))
    with EventStorage():
        works = {arm: work_of(base, arm, batch) for arm in args.arms}
        peaks = extra_peaks_mib(works, args)
        timings = take_turns(works, args.rounds, warmup=WARMUP)
    reference = timings[args.arms[0]]
    rows = [
        {
            "arm": arm,
            "ms a step": timing.median_ms,
            "p20": timing.p20_ms,
            "p80": timing.p80_ms,
            "CPU ms": timing.cpu_ms,
            f"x {args.arms[0]}": timing.median_ms / reference.median_ms,
            f"CPU, x {args.arms[0]}": timing.cpu_ms / reference.cpu_ms,
            "extra MiB": peaks[arm],
        }
        for arm, timing in timings.items()
    ]
    report(rows, file=args.json, config=args.config_file.name, batch=args.batch, size=args.size)


def num_classes(cfg: CfgNode) -> int:
    """Return the number of classes of a one-stage or a two-stage detector."""
    is_dense = arms.family_of(cfg) == "retinanet"
    return cfg.MODEL.RETINANET.NUM_CLASSES if is_dense else cfg.MODEL.ROI_HEADS.NUM_CLASSES


def work_of(base: CfgNode, arm: str, batch: Batch) -> Work:
    """Return a function that runs a training step of the arm."""
    cfg = base.clone()
    arms.apply(cfg, arm)
    model = build(cfg, cfg.MODEL.META_ARCHITECTURE)
    return functools.partial(step, model, build_optimizer(still(cfg), model), batch)


if __name__ == "__main__":
    main()
