#!/usr/bin/env python3
r"""
Benchmark of a RetinaNet training step on a GPU: ours with default keys against Detectron2's class.

    $ python tools/benchmarks/bm_training_step_cuda.py --json output/bench-gpu/step-cuda.json

It requires a CUDA device. The model is R-50-FPN, in bfloat16 by autocast, on noise images with
seven objects each. Both models start from the same weights and take turns.

Columns:

* "x stock": how many times faster than Detectron2's class.
* "images/s": images of a training in a second, without the loading of data.
* "waits": how often the host waits for the GPU in a step, counted by
  `torch.cuda.set_sync_debug_mode`. A step without a wait is queued while the one before computes.
* "peak GiB": the peak of the allocated GPU memory.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch
from bm_dense_loss_cuda import gpu, take_turns
from bm_training_step import Batch, make_batch, still
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from harness import Work, add_arguments, report
from torch import nn

from focal_plugin import get_cfg

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml"
MODELS = {"stock": "RetinaNet", "ours": "FocalRetinaNet"}
GOAL_TIMES_STOCK = 1.2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, rounds=20)
    parser.add_argument("--batch", type=int, default=16, help="images (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("H", "W"))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "No CUDA device is available; bm_training_step.py measures on a CPU.\n")
    with EventStorage():
        rows = measure(args)
    report(rows, file=args.json, gpu=gpu(), batch=args.batch, size=args.size)
    print(f"on {torch.cuda.get_device_name()}; goal: {GOAL_TIMES_STOCK} x stock, no wait")


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each model."""
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list(["MODEL.DEVICE", "cuda", "MODEL.WEIGHTS", ""])
    batch = make_batch(args.batch, *args.size, num_classes=cfg.MODEL.RETINANET.NUM_CLASSES)
    variants: dict[str, Work] = {}
    for name, architecture in MODELS.items():
        cfg.MODEL.META_ARCHITECTURE = architecture
        torch.manual_seed(0)
        model = build_model(cfg).train()
        variants[name] = functools.partial(step, model, build_optimizer(still(cfg), model), batch)
    peaks = {name: peak_gib(work) for name, work in variants.items()}
    waits = {name: count_waits(work) for name, work in variants.items()}
    timings = take_turns(variants, args.rounds)
    stock = statistics.median(timings["stock"])
    rows = []
    for name, times in timings.items():
        fifths = statistics.quantiles(times, n=5, method="inclusive")
        median = statistics.median(times)
        rows.append(
            {
                "model": name,
                "ms a step": median,
                "p20": fifths[0],
                "p80": fifths[-1],
                "x stock": stock / median,
                "images/s": args.batch * 1e3 / median,
                "waits": waits[name],
                "peak GiB": peaks[name],
            }
        )
    return rows


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """Run one step in bfloat16, without reading its loss."""
    with torch.autocast("cuda", torch.bfloat16):
        loss = sum(model(batch).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def count_waits(work: Work) -> int:
    """Return how often the host waits for the GPU, after two steps that compile and allocate."""
    work()
    work()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def peak_gib(work: Work) -> float:
    work()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


if __name__ == "__main__":
    main()
