#!/usr/bin/env python3
"""
Measure how often the interval over images excludes 0 for two equal detectors: ours and hotcoco's.

Each comparison draws a new test set and two lists of detections of the same skill. Five intervals
in a hundred may exclude 0.

    python tools/compare_intervals.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
from scipy import stats
from tabulate import tabulate

from focal_plugin.compare.analysis.detections.average_precision import evaluate
from focal_plugin.compare.analysis.detections.bootstrap import bootstrap_difference
from focal_plugin.files import write_json

IMAGES, OBJECTS, CLASSES, DETECTIONS = 100, 3, 3, 10
SIDE, BOX = 400, 60
RIGHT = 0.6
METRICS = ("AP", "AR")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comparisons", type=int, default=400)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    hits = {(tool, metric): 0 for tool in ("ours", "hotcoco") for metric in METRICS}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.comparisons):
            generator = np.random.default_rng([args.seed, i])
            file = Path(folder) / "truth.json"
            truth = draw_truth(generator)
            write_json(file, truth)
            pair = [draw_detections(truth, generator) for _ in range(2)]
            made = {
                "ours": our_intervals(file, pair, args.replicates, i),
                "hotcoco": hotcoco_intervals(file, pair, args.replicates, i),
            }
            for tool, metric in hits:
                low, high = made[tool][metric]
                hits[tool, metric] += not low <= 0 <= high
    rows = []
    for (tool, metric), count in hits.items():
        low, high = stats.binomtest(count, args.comparisons).proportion_ci(0.95)
        rate = f"{100 * count / args.comparisons:.1f}%"
        rows.append([tool, metric, rate, f"{100 * low:.1f}% to {100 * high:.1f}%"])
    header = ["interval of", "metric", "excludes 0", "95% interval"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


def our_intervals(
    file: Path, pair: list[list[dict[str, Any]]], replicates: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return metric -> 95% interval of the paired bootstrap of the report."""
    both = [evaluate(file, detections) for detections in pair]
    return {
        metric: bootstrap_difference(
            *both, replicates=replicates, seed=seed, metric=metric
        ).interval
        for metric in METRICS
    }


def hotcoco_intervals(
    file: Path, pair: list[list[dict[str, Any]]], replicates: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return metric -> 95% interval of hotcoco."""
    evaluators = []
    for detections in pair:
        truth = hotcoco.COCO(str(file))
        evaluator = hotcoco.COCOeval(truth, truth.load_res(detections), "bbox")
        evaluator.evaluate()
        evaluators.append(evaluator)
    first, second = evaluators
    compared = hotcoco.compare(first, second, n_bootstrap=replicates, seed=seed, confidence=0.95)
    found = compared["ci"]
    names = {"AP": "AP", "AR": "AR100"}
    return {metric: (found[n]["lower"], found[n]["upper"]) for metric, n in names.items()}


def draw_truth(generator: np.random.Generator) -> dict[str, Any]:
    """Draw a test set whose objects do not overlap much."""
    corners = generator.uniform(0, SIDE - BOX, (IMAGES * OBJECTS, 2))
    annotations = [
        {
            "id": i + 1,
            "image_id": i // OBJECTS + 1,
            "category_id": int(generator.integers(1, CLASSES + 1)),
            "bbox": [*corner.tolist(), BOX, BOX],
            "area": BOX * BOX,
            "iscrowd": 0,
        }
        for i, corner in enumerate(corners)
    ]
    return {
        "images": [{"id": i + 1, "width": SIDE, "height": SIDE} for i in range(IMAGES)],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(CLASSES)],
    }


def draw_detections(truth: dict[str, Any], generator: np.random.Generator) -> list[dict[str, Any]]:
    """Draw detections of a detector whose quality differs from image to image."""
    skill = generator.beta(3, 3, IMAGES + 1)
    found = []
    for annotation in truth["annotations"]:
        image = annotation["image_id"]
        right = generator.random() < skill[image]
        moved = np.array(annotation["bbox"]) + generator.normal(0, 6, 4)
        category = annotation["category_id"] if right else int(generator.integers(1, CLASSES + 1))
        score = generator.beta(4, 2) if right else generator.beta(2, 3)
        found.append(_entry(image, category, moved, score))
    for image in range(1, IMAGES + 1):
        for corner in generator.uniform(0, SIDE - BOX, (DETECTIONS - OBJECTS, 2)):
            box = np.array([*corner, BOX, BOX])
            category = int(generator.integers(1, CLASSES + 1))
            found.append(_entry(image, category, box, generator.beta(1, 4)))
    return found


def _entry(image: int, category: int, box: np.ndarray, score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box.tolist(), "score": score}


if __name__ == "__main__":
    main()
