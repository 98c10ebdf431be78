#!/usr/bin/env python3
r"""
Benchmark of memory allocators: what stock and ours gain from each, and the memory that it takes.

    $ python tools/benchmarks/bm_allocator.py
    $ python tools/benchmarks/bm_allocator.py --works loss labels --allocators glibc tuned

An allocator is chosen before a process starts, so each measurement has a process of its own. All
allocators take turns. jemalloc and tcmalloc are measured if they are installed; on Debian their
packages are libjemalloc2 and libtcmalloc-minimal4.

Columns:

* "x glibc": the time with glibc's defaults, divided by the time with this allocator.
* "x stock": the time of stock, divided by that of ours, both with this allocator.
* "peak MiB": the largest resident memory of the process, PyTorch and Detectron2 included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from harness import Work, add_arguments, report, status_mib, take_turns

from focal_plugin.losses import SigmoidFocalLoss
from focal_plugin_allocator import SWITCH, allocator_variables

ROOT = Path(__file__).resolve().parents[2]
SHAPES = "configs/Shapes-Detection/retinanet_small.yaml"
COCO = "configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml"
SIZE = (800, 1344)


def loss() -> dict[str, Work]:
    """Return the classification loss of two images, forward and backward, beside a copy."""
    from bm_dense_loss import backward, copies, make_labels, make_outputs, ours, stock_steps
    from fvcore.nn import sigmoid_focal_loss_jit

    outputs = make_outputs(
        argparse.Namespace(anchors=None, size=SIZE, batch=2, classes=80, channels_last=False)
    )
    labels = make_labels(outputs, 80)
    stock = partial(stock_steps, outputs, labels, 80, sigmoid_focal_loss_jit)
    return {
        "copy": copies(outputs)["copy"],
        "stock": partial(backward, stock, outputs),
        "ours": partial(backward, partial(ours, outputs, labels, SigmoidFocalLoss()), outputs),
    }


def labels() -> dict[str, Work]:
    """Return the labels of the anchors of one image with twenty objects."""
    from bm_match_anchors import labeling, make_anchors, make_objects

    return labeling(make_objects(20, *SIZE), make_anchors(*SIZE))


def step(config: str, batch_size: int, height: int, width: int) -> dict[str, Work]:
    """Return a whole training step."""
    from bm_training_step import build, make_batch, read_config, step, still

    cfg = read_config(argparse.Namespace(config_file=ROOT / config, opts=[]))
    classes = cfg.MODEL.RETINANET.NUM_CLASSES
    batch = make_batch(batch_size, height, width, num_classes=classes)

    def work(architecture: str) -> Work:
        model = build(cfg, architecture)
        return partial(step, model, build_optimizer(still(cfg), model), batch)

    return {"stock": work("RetinaNet"), "ours": work("FocalRetinaNet")}


WORKS: dict[str, Callable[[], dict[str, Work]]] = {
    "loss": loss,
    "labels": labels,
    "step-128": partial(step, SHAPES, 16, 128, 128),
    "step-512": partial(step, COCO, 2, 512, 512),
    "step-800": partial(step, COCO, 1, *SIZE),
}
LIBRARIES = {"jemalloc": "libjemalloc.so.2", "tcmalloc": "libtcmalloc_minimal.so.4"}
VARIANTS = {"loss": ("copy", "stock", "ours")}


def allocators() -> dict[str, dict[str, str]]:
    """Return name -> environment variables of the allocators of this machine."""
    found = {
        "glibc": {SWITCH: "default"},
        "tuned": allocator_variables({}, on_gpu=False),
        "glibc, THP_MEM_ALLOC_ENABLE": {SWITCH: "default", "THP_MEM_ALLOC_ENABLE": "1"},
    }
    for name, file in {
        "jemalloc": "libjemalloc.so.2",
        "tcmalloc": "libtcmalloc_minimal.so.4",
    }.items():
        library = next(Path("/usr/lib").glob(f"*/{file}"), None)
        if library is not None:
            found[name] = {"LD_PRELOAD": str(library)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, rounds=5)
    known = allocators()
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--allocators", nargs="+", choices=known, default=list(known))
    parser.add_argument("--repeats", type=int, default=3, help="processes (default: %(default)s)")
    parser.add_argument("--child", nargs=2, metavar=("WORK", "VARIANT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(measure_here(*args.child, rounds=args.rounds)))
        return
    rows: list[dict[str, Any]] = []
    started = time.monotonic()
    for work in args.works:
        for variant in VARIANTS.get(work, ("stock", "ours")):
            rows += measure(work, variant, {name: known[name] for name in args.allocators}, args)
            print(f"{work}, {variant}: {time.monotonic() - started:.0f} s so far", file=sys.stderr)
    for row in rows:
        row["x stock"] = _of_stock(row, rows)
    report(rows, file=args.json)


def measure(
    work: str, variant: str, chosen: dict[str, dict[str, str]], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure a variant in processes of its own, with each allocator in turn."""
    clean = {k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES", "LD_PRELOAD")}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    command = [sys.executable, "-W", "ignore", __file__, "--child", work, variant]
    command += ["--rounds", str(args.rounds), "--threads", str(args.threads)]
    for _ in range(args.repeats):
        for name, variables in chosen.items():
            done = subprocess.run(
                command, env={**clean, **variables}, stdout=subprocess.PIPE, check=True, text=True
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    times = {name: statistics.median(x["ms"] for x in of) for name, of in found.items()}
    first = next(iter(times))
    return [
        {
            "work": work,
            "variant": variant,
            "allocator": name,
            "ms": times[name],
            f"x {first}": times[first] / times[name],
            "x stock": None,
            "peak MiB": statistics.median(x["peak_mib"] for x in of),
        }
        for name, of in found.items()
    ]


def measure_here(work: str, variant: str, *, rounds: int) -> dict[str, float]:
    with EventStorage():
        timing = take_turns({variant: WORKS[work]()[variant]}, rounds, warmup=2)[variant]
    return {"ms": timing.median_ms, "peak_mib": status_mib("VmHWM")}


def _of_stock(row: dict[str, Any], rows: list[dict[str, Any]]) -> float | None:
    """Return how many times faster than stock a row of ours is, with the same allocator."""
    if row["variant"] != "ours":
        return None
    same = [x for x in rows if x["work"] == row["work"] and x["allocator"] == row["allocator"]]
    return next(x["ms"] for x in same if x["variant"] == "stock") / row["ms"]


if __name__ == "__main__":
    main()
