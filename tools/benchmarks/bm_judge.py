#!/usr/bin/env python3
r"""
Benchmark of time and memory of `focal-compare judge` on files of LVIS's size.

    $ python tools/benchmarks/bm_judge.py --images 2000 --classes 1200 --detections 300

Ground truth and detections are drawn at random: the classes have frequencies like those of LVIS
(Zipf), and a third of the detections lies near an object. The peak is the resident memory of the
command, with its start. `--keep FOLDER` leaves the files.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import numpy as np

COMMAND = "import sys, focal_plugin_commands; sys.exit(focal_plugin_commands.focal_compare())"
IMAGE_SIZE = 640
OBJECTS_PER_IMAGE = 12
NEAR_AN_OBJECT = 1 / 3
RIGHT_CLASS = 0.7


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=1200)
    parser.add_argument("--detections", type=int, default=300, help="per image")
    parser.add_argument("--replicates", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the files there")
    harness.add_arguments(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = write_files(folder, args)
        size = next(iter(files.values()))[0].stat().st_size
        empty = folder / "empty.json"
        empty.write_text("[]", encoding="utf-8")
        least_mib, _ = judge(folder, {arm: [empty] for arm in files}, args)
        peak_mib, cpu_s = judge(folder, files, args)
    millions = args.images * args.detections / 1e6
    row = {
        "files": args.arms * args.seeds,
        "MB of a file": size / 1e6,
        "million detections of a file": millions,
        "CPU s": cpu_s,
        "peak MiB": peak_mib,
        "peak MiB without detections": least_mib,
        "MiB for a million": (peak_mib - least_mib) / millions,
    }
    harness.report([row], file=args.json, images=args.images, replicates=args.replicates)


def judge(
    folder: Path, files: dict[str, list[Path]], args: argparse.Namespace
) -> tuple[float, float]:
    """Return the peak memory, MiB, and the CPU time, seconds, of the command."""
    command = [sys.executable, "-c", COMMAND, "judge", str(folder / "truth.json")]
    for arm, of_arm in files.items():
        command += ["--arm", f"{arm}={','.join(map(str, of_arm))}"]
    command += ["--output", str(folder / "out"), "--replicates", str(args.replicates)]
    with open(os.devnull, "wb") as nothing:
        actions = [(os.POSIX_SPAWN_DUP2, nothing.fileno(), 1)]
        process = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(process, 0)
    if status:
        sys.exit(f"focal-compare judge ended with status {status}")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def write_files(folder: Path, args: argparse.Namespace) -> dict[str, list[Path]]:
    """Write the ground truth, and return arm -> its files; each arm finds a few more objects."""
    generator = np.random.default_rng(0)
    frequency = 1 / np.arange(1, args.classes + 1)
    frequency /= frequency.sum()
    number = OBJECTS_PER_IMAGE * args.images
    truth = {
        "image": np.repeat(np.arange(args.images), OBJECTS_PER_IMAGE),
        "category": generator.choice(args.classes, number, p=frequency),
        "box": draw_boxes(generator, number),
    }
    write_truth(folder / "truth.json", truth, args)
    files: dict[str, list[Path]] = {}
    for arm in range(args.arms):
        files[f"arm {arm}"] = [folder / f"{arm}-{seed}.json" for seed in range(args.seeds)]
        for file in files[f"arm {arm}"]:
            write_detections(file, truth, frequency, 0.5 + 0.05 * arm, generator, args)
    return files


def write_truth(file: Path, truth: dict[str, np.ndarray], args: argparse.Namespace) -> None:
    """Write the annotations, without masks."""
    columns = (column.tolist() for column in truth.values())
    annotations = [
        {"id": id_, "area": box[2] * box[3], **entry(image, category, box)}
        for id_, (image, category, box) in enumerate(zip(*columns, strict=True), start=1)
    ]
    content = {
        "images": [{"id": id_} for id_ in range(args.images)],
        "annotations": annotations,
        "categories": [{"id": id_, "name": f"class {id_}"} for id_ in range(args.classes)],
    }
    file.write_text(json.dumps(content), encoding="utf-8")


def write_detections(
    file: Path,
    truth: dict[str, np.ndarray],
    frequency: np.ndarray,
    skill: float,
    generator: np.random.Generator,
    args: argparse.Namespace,
) -> None:
    """Write the detections image by image."""
    number = args.detections
    with file.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for image in range(args.images):
            of_object = image * OBJECTS_PER_IMAGE + generator.integers(0, OBJECTS_PER_IMAGE, number)
            near = generator.random(number) < NEAR_AN_OBJECT
            right = near & (generator.random(number) < RIGHT_CLASS * skill)
            moved = truth["box"][of_object] + generator.normal(0, 8, (number, 4))
            box = np.where(near[:, None], np.maximum(moved, 1), draw_boxes(generator, number))
            drawn = generator.choice(args.classes, number, p=frequency)
            category = np.where(right, truth["category"][of_object], drawn)
            score = np.where(right, generator.beta(4, 2, number), generator.beta(1, 9, number))
            rows = zip(category.tolist(), box.tolist(), score.tolist(), strict=True)
            entries = [{**entry(image, c, b), "score": s} for c, b, s in rows]
            stream.write(("," if image else "") + json.dumps(entries)[1:-1])
        stream.write("]")


def draw_boxes(generator: np.random.Generator, number: int) -> np.ndarray:
    """Draw (number, 4) x, y, width, height, with sizes log-uniform from 8 to 400 pixels."""
    sizes = np.exp(generator.uniform(np.log(8), np.log(400), (number, 2)))
    return np.concatenate([generator.uniform(0, IMAGE_SIZE - sizes), sizes], axis=1)


def entry(image: int, category: int, box: list[float]) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box}


if __name__ == "__main__":
    main()
