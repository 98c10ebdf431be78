#!/usr/bin/env python3
r"""
Run all CPU benchmarks one after the other, for `docs/performance.md`.

    $ python tools/benchmarks/run_benchmarks.py output/bench
    $ python tools/write_performance.py output/bench

This takes about four minutes on two cores (`make bench`). `--slow` adds R-50 at 512 px, the COCO
evaluation and the image cache, for a total of about fifteen minutes. The machine should be idle.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SHAPES = "configs/Shapes-Detection/retinanet_small.yaml"
COCO = "configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml"

FAST = {
    "dense-loss-128": "bm_dense_loss.py --size 128 128 --rounds 15",
    "dense-loss-256": "bm_dense_loss.py --size 256 256 --rounds 9",
    "dense-loss-512": "bm_dense_loss.py --size 512 512 --rounds 5",
    "dense-loss-800x1344": "bm_dense_loss.py --size 800 1344 --rounds 5",
    "dense-loss-rows": "bm_dense_loss.py --anchors 20000 --batch 4 --rounds 9",
    "losses": "bm_dense_loss.py --loss --size 512 512 --rounds 3",
    "ranking": "bm_ranking.py --rounds 3",
    "box-loss": "bm_box_loss.py --size 800 1344 --rounds 15",
    "label-anchors": "bm_match_anchors.py --rounds 7",
    "mining-128": "bm_mining.py --batch 16 --classes 5 --size 128 128",
    "mining-800x1344": "bm_mining.py --size 800 1344 --rounds 5",
    "step-shapes": f"bm_training_step.py --config-file {SHAPES} --batch 16 --size 128 128",
}
SLOW = {
    "curve-shapes": f"bm_training_step.py --config-file {SHAPES} --curve 200",
    "step-r50-512": (
        f"bm_training_step.py --config-file {COCO} --batch 2 --size 512 512 --rounds 7"
    ),
    "coco-eval": "bm_coco_eval.py",
    "image-cache": "bm_image_cache.py",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="output folder, one JSON file per benchmark")
    parser.add_argument("--slow", action="store_true", help="include the slow benchmarks")
    parser.add_argument("--only", nargs="+", choices=[*FAST, *SLOW], metavar="NAME", default=[])
    args = parser.parse_args()
    chosen = {**FAST, **SLOW} if args.slow or args.only else FAST
    names = args.only or list(chosen)
    folder = args.folder.resolve()
    started = time.monotonic()
    for number, name in enumerate(names, start=1):
        script, *options = chosen[name].split()
        print(f"\n[{number}/{len(names)}] {name}, {time.monotonic() - started:.0f} s so far")
        command = [sys.executable, "-W", "ignore", f"tools/benchmarks/{script}", *options]
        subprocess.run([*command, "--json", folder / f"{name}.json"], cwd=ROOT, check=True)
    print(f"\ndone in {time.monotonic() - started:.0f} s: {args.folder}")


if __name__ == "__main__":
    main()
