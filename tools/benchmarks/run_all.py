#!/usr/bin/env python3
r"""
Run all CPU benchmarks one after the other, for `docs/performance.md`.

    $ python tools/benchmarks/run_all.py output/bench
    $ python tools/write_performance.py output/bench

Each benchmark runs with the defaults of glibc, and then with the allocator of a CPU trainer, into
the folder `tuned`. On two cores this takes about twenty minutes (`make bench`). `--slow` adds R-50
at 512 px, the allocators, the COCO evaluation and the image cache, for a total of about an hour.
The machine should be idle. `--gpu` runs the benchmarks of a GPU instead (`make bench-gpu`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from focal_plugin_allocator import SWITCH, allocator_variables

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SHAPES = "configs/Shapes-Detection/retinanet_small.yaml"
SHAPES_RCNN = "configs/Shapes-Detection/faster_rcnn_small.yaml"
COCO = "configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml"
ARMS = (
    "ce fl ohem ohem_1_3 asl qfl eqlv2 efl ghm softmax_fl gumbel mal ap alrp "
    "rank_sort atss tal simota paa free_anchor isr_p carl fl_balance_equal_gradient"
)
ROI_ARMS = (
    "stock roi_ohem roi_fl_softmax roi_fl_sigmoid roi_seesaw roi_rank_sort roi_alrp roi_isr_p "
    "roi_carl roi_score_hlr roi_iou_balanced rpn_fl rpn_ohem rpn_atss"
)

FAST = {
    "dense-loss-128": "bm_dense_loss.py --compiled --size 128 128 --rounds 15",
    "dense-loss-256": "bm_dense_loss.py --compiled --size 256 256 --rounds 9",
    "dense-loss-512": "bm_dense_loss.py --compiled --size 512 512 --rounds 5",
    "dense-loss-800x1344": "bm_dense_loss.py --compiled --size 800 1344 --rounds 5",
    "dense-loss-rows": "bm_dense_loss.py --compiled --anchors 20000 --batch 4 --rounds 9",
    "losses": "bm_dense_loss.py --loss --size 512 512 --rounds 3",
    "ranking": "bm_ranking.py --rounds 3",
    "mining-128": "bm_mining.py --batch 16 --classes 5 --size 128 128",
    "mining-800x1344": "bm_mining.py --size 800 1344 --rounds 5",
    "box-loss": "bm_box_loss.py --size 800 1344 --rounds 15",
    "label-anchors": "bm_match_anchors.py --rounds 7",
    "step-shapes": f"bm_training_step.py --config-file {SHAPES} --batch 16 --size 128 128",
    "arm-steps": f"bm_arm_steps.py --arms {ARMS}",
    "arm-steps-two-stage": f"bm_arm_steps.py --arms {ROI_ARMS} --config-file {SHAPES_RCNN}",
}
SLOW = {
    "curve-shapes": f"bm_training_step.py --config-file {SHAPES} --curve 200",
    "step-r50-512": (
        f"bm_training_step.py --config-file {COCO} --batch 2 --size 512 512 --rounds 7"
    ),
    "allocators": "bm_allocator.py",
    "coco-eval": "bm_coco_eval.py",
    "image-cache": "bm_image_cache.py",
}
GPU = {
    "dense-loss-cuda": "bm_dense_loss_cuda.py",
    "step-cuda": "bm_training_step_cuda.py",
}
ONE_ALLOCATOR = {"curve-shapes", "allocators", "coco-eval", "image-cache"}
"""Benchmarks that do not run a second time."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="output folder, one JSON file per benchmark")
    parser.add_argument("--slow", action="store_true", help="include the slow benchmarks")
    parser.add_argument("--only", nargs="+", choices=[*FAST, *SLOW], metavar="NAME", default=[])
    parser.add_argument("--gpu", action="store_true", help="run those of a GPU instead")
    args = parser.parse_args()
    chosen = GPU if args.gpu else {**FAST, **SLOW} if args.slow or args.only else FAST
    names = args.only or list(chosen)
    folder = args.folder.resolve()
    started = time.monotonic()
    for number, name in enumerate(names, start=1):
        print(f"\n[{number}/{len(names)}] {name}, {time.monotonic() - started:.0f} s so far")
        run(chosen[name], folder / f"{name}.json", {SWITCH: "default"})
        tuned = allocator_variables({}, on_gpu=False)
        if tuned and name not in {*ONE_ALLOCATOR, *GPU}:
            run(chosen[name], folder / "tuned" / f"{name}.json", tuned)
    print(f"\ndone in {time.monotonic() - started:.0f} s: {args.folder}")


def run(benchmark: str, file: Path, variables: dict[str, str]) -> None:
    """Run a script with its options, and write what it measured to a file."""
    script, *options = benchmark.split()
    command = [sys.executable, "-W", "ignore", f"tools/benchmarks/{script}", *options]
    environment = {**os.environ, **variables}
    subprocess.run([*command, "--json", file], cwd=ROOT, env=environment, check=True)


if __name__ == "__main__":
    main()
