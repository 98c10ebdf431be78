#!/usr/bin/env python3
r"""
Benchmark of `focal-compare report` on the runs of a whole sweep.

    $ python tools/benchmarks/bm_report.py --arms 8 --seeds 6

The folder of the comparison is drawn at random, at the size of a sweep on the built-in dataset:
250 images with two objects each, and detections near and far from them. Time and memory are those
of the whole command, with its start and its processes. `--keep FOLDER` leaves the folder, to
profile the command on it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import harness
import numpy as np
import torch
from PIL import Image

from focal_plugin.compare.plan.comparison import Comparison, Run
from focal_plugin.compare.report.write import HTML
from focal_plugin.compare.runs.result import AVERAGES, Result
from focal_plugin.compare.runs.status import Status
from focal_plugin.config import get_cfg
from focal_plugin.diagnostics.snapshot import Snapshot, write_snapshot
from focal_plugin.files import sha256_of
from focal_plugin.run_folder import (
    CONFIG_FILE,
    DETECTIONS_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    MOMENTS,
    snapshot_file,
)

CLASSES = ("disc", "square", "triangle", "plus", "crescent")
COMMAND = "import sys, focal_plugin_commands; sys.exit(focal_plugin_commands.focal_compare())"
IMAGE_SIZE = 128
OBJECTS_PER_IMAGE = 2
NEAR_AN_OBJECT = 0.3
ITERATIONS = 400
LOGGED_EVERY = 20
SAMPLED_EVERY_S = 1.0
SAMPLE = 20_000
"""Negatives of a snapshot."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the comparison there")
    harness.add_arguments(parser, rounds=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        write_comparison(folder, args)
        command = [sys.executable, "-c", COMMAND, "report", str(folder)]
        command += ["--replicates", str(args.replicates)]
        measured = [measure(command) for _ in range(args.rounds)]
        size = (folder / HTML).stat().st_size
    cpu_s, wall_s, peak_mib = map(median, zip(*measured, strict=True))
    runs = args.arms * args.seeds
    row = {
        "runs": runs,
        "cpu s": cpu_s,
        "wall s": wall_s,
        "peak MiB": peak_mib,
        "page MiB": size / 2**20,
    }
    harness.report([row], file=args.json, images=args.images, replicates=args.replicates)


def measure(command: list[str]) -> tuple[float, float, float]:
    """Return CPU and wall time of a command, seconds, and the peak memory of its processes, MiB."""
    before, started, peak_kib = os.times(), time.monotonic(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak_kib = max(peak_kib, sum(map(memory_kib, processes_of(process.pid))))
            time.sleep(SAMPLED_EVERY_S)
    if process.returncode:
        sys.exit(f"{command} ended with status {process.returncode}")
    after, ended = os.times(), time.monotonic()
    user = after.children_user - before.children_user
    cpu_s = user + after.children_system - before.children_system
    return cpu_s, ended - started, peak_kib / 1024


def processes_of(pid: int) -> list[int]:
    """Return a process and its children."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return [pid, *map(int, children.split())]
    return []


def memory_kib(pid: int) -> int:
    """Return the memory of a process; a page that several share is divided among them."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        return int(text.partition("\nPss:")[2].split()[0])
    return 0


def write_comparison(folder: Path, args: argparse.Namespace) -> None:
    """Write a comparison whose runs are all done; each arm finds a few more objects."""
    generator = np.random.default_rng(0)
    truth, data = write_ground_truth(folder / "data", args.images, generator)
    names = [f"arm {number}" for number in range(args.arms)]
    config = get_cfg()
    runs = [make_run(arm, seed) for seed in range(1, args.seeds + 1) for arm in names]
    comparison = Comparison(
        "report", tuple(names), names[0], tuple(range(1, args.seeds + 1)), tuple(runs)
    )
    comparison.write(folder)
    for run in runs:
        skill = 0.5 + 0.3 * names.index(run.arm) / args.arms
        write_run(
            folder / run.id, run, draw_detections(truth, skill, args.detections, generator), data
        )
        config.SEED = run.seed
        (folder / run.id / CONFIG_FILE).write_text(config.dump(), encoding="utf-8")


def write_ground_truth(
    folder: Path, num_images: int, generator: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the objects as arrays, and the entry of the dataset in `env.json`."""
    (folder / "images").mkdir(parents=True)
    ids = range(1, num_images + 1)
    for id_ in ids:
        pixels = generator.integers(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{id_}.jpg")
    number = OBJECTS_PER_IMAGE * num_images
    truth = {
        "image": np.repeat(ids, OBJECTS_PER_IMAGE),
        "category": generator.integers(1, len(CLASSES) + 1, number),
        "box": draw_boxes(generator, number),
    }
    rows = zip(*(column.tolist() for column in truth.values()), strict=True)
    annotations = [
        {"id": id_, "iscrowd": 0, "area": box[2] * box[3], **entry(image, category, box)}
        for id_, (image, category, box) in enumerate(rows, start=1)
    ]
    size = {"width": IMAGE_SIZE, "height": IMAGE_SIZE}
    content = {
        "images": [{"id": id_, "file_name": f"{id_}.jpg", **size} for id_ in ids],
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in enumerate(CLASSES, start=1)],
    }
    file = folder / "annotations.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    data = {
        "name": "drawn",
        "json_file": str(file.absolute()),
        "image_root": str((folder / "images").absolute()),
        "json_sha256": sha256_of(file),
        "images": num_images,
        "annotations": number,
        "crowds": 0,
        "classes": CLASSES,
        "annotations_per_class": np.bincount(truth["category"])[1:].tolist(),
    }
    return truth, data


def draw_boxes(generator: np.random.Generator, number: int) -> np.ndarray:
    """Draw (number, 4) x, y, width, height, with sizes log-uniform from 8 to 80 pixels."""
    sizes = np.exp(generator.uniform(np.log(8), np.log(80), (number, 2)))
    return np.concatenate([generator.uniform(0, IMAGE_SIZE - sizes), sizes], axis=1)


def draw_detections(
    truth: dict[str, np.ndarray], skill: float, per_image: int, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Draw detections near objects, the share ``skill`` of them of the right class, and others."""
    images = np.unique(truth["image"])
    number = per_image * len(images)
    image = np.repeat(images, per_image)
    of_object = OBJECTS_PER_IMAGE * (image - 1) + generator.integers(0, OBJECTS_PER_IMAGE, number)
    near = generator.random(number) < NEAR_AN_OBJECT
    right = near & (generator.random(number) < skill)
    moved = truth["box"][of_object] + generator.normal(0, 2.5, (number, 4))
    box = np.where(near[:, None], np.maximum(moved, 1), draw_boxes(generator, number))
    any_class = generator.integers(1, len(CLASSES) + 1, number)
    category = np.where(right, truth["category"][of_object], any_class)
    score = np.where(right, generator.beta(4, 2, number), generator.beta(1, 5, number))
    columns = (image.tolist(), category.tolist(), box.tolist(), score.tolist())
    rows = zip(*columns, strict=True)
    return [{**entry(image, category, box), "score": score} for image, category, box, score in rows]


def entry(image: int, category: int, box: list[float]) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box}


def make_run(arm: str, seed: int) -> Run:
    content = hashlib.sha256(f"{arm} {seed}".encode()).hexdigest()
    opts = ("SEED", str(seed))
    return Run(arm, seed, "/config.yaml", opts, (), content, ITERATIONS)


def write_run(
    folder: Path, run: Run, detections: list[dict[str, Any]], data: dict[str, Any]
) -> None:
    (folder / DETECTIONS_FILE).parent.mkdir(parents=True)
    (folder / DETECTIONS_FILE).write_text(json.dumps(detections), encoding="utf-8")
    environment = {"device": "cpu", "threads": 1, "datasets": {"train": [data], "test": [data]}}
    (folder / ENVIRONMENT_FILE).write_text(json.dumps(environment), encoding="utf-8")
    lines: list[dict[str, float]] = [
        {"iteration": i, "total_loss": 60 / (i + run.seed), "loss_cls": 40 / (i + run.seed)}
        for i in range(LOGGED_EVERY - 1, ITERATIONS, LOGGED_EVERY)
    ]
    averages: dict[str, float | None] = dict.fromkeys(AVERAGES, 20.0 + run.seed)
    lines.append({"iteration": ITERATIONS, "bbox/AP": 20.0 + run.seed})
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / METRICS_FILE).write_text(text, encoding="utf-8")
    for moment in MOMENTS:
        write_snapshot(snapshot_file(folder, moment, "retinanet"), snapshot(run.seed))
    result = Result(run.arm, run.seed, averages, {}, ITERATIONS, 0.1, 900.0, run.config_hash)
    result.write(folder)
    Status("done", attempts=1).write(folder)


def snapshot(seed: int) -> Snapshot:
    generator = np.random.default_rng(seed)
    sums = [f"{of}_{kind}" for of in ("loss", "divided") for kind in ("pos", "neg")]
    counts = [f"{of}_{kind}" for of in ("num", "kept") for kind in ("pos", "neg")]
    levels = [*sums, "num_pos", "num_neg", "box_loss"]
    content: dict[str, Any] = {
        **dict.fromkeys(("iteration", "num_classes", "num_images", "num_anchors", *counts), SAMPLE),
        **dict.fromkeys((*sums, "divisor", "box_loss", "box_divided"), 1.0),
        **dict.fromkeys(("gradient_pos", "gradient_neg", "mean_probability"), 0.1),
        **dict.fromkeys(("easy_share", "easy_loss_share", "easy_gradient_share"), 0.1),
        **{"part": "retinanet", "loss": "SigmoidFocalLoss", "options": "", "miner": ""},
        "levels": np.array(["p3", "p4", "p5"]),
        **{f"level_{name}": np.ones(3) for name in levels},
        "anchors_digest": str(seed),
        "sample_pos": np.sort(generator.random(200)),
        "sample_neg": np.sort(generator.random(SAMPLE) ** 4),
        "gradient_edges": np.concatenate([[0], np.logspace(-9, 0, 64)]),
        "gradient_counts_pos": generator.integers(0, 9, 64),
        "gradient_counts_neg": generator.integers(0, 9999, 64),
        "parameter_gradient_norms": np.linspace(8, 2, 10),
    }
    return Snapshot(**content)


if __name__ == "__main__":
    main()
