#!/usr/bin/env python3
r"""
Benchmark of the box AP with each installed COCO evaluator.

    $ python tools/benchmarks/bm_coco_eval.py --threads 1

The time covers the steps from a list of detections to the twelve statistics: reading the
detections, matching and accumulating. hotcoco also reads the ground truth. The data is random:
seven objects per image, a third of the detections near an object, and no two with the same score.
Before the measurement, the result of each evaluator is checked against pycocotools.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import harness
import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from focal_plugin.engine.evaluation import curves
from focal_plugin_doctor import has_compiled_ops, has_hotcoco

Evaluate = Callable[[COCO, list[dict[str, Any]]], np.ndarray]
OBJECTS_PER_IMAGE = 7
NEAR_AN_OBJECT = 1 / 3
IMAGE_SIZE = 640


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--detections", type=int, default=50_000, help="in all images together")
    parser.add_argument("--classes", type=int, nargs="+", default=[80, 5])
    harness.add_arguments(parser, rounds=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for classes in args.classes:
        data = draw(args.images, args.detections, classes)
        rows += measure(classes, *data, args.rounds)
    harness.report(rows, file=args.json, images=args.images, detections=args.detections)


def installed_evaluators() -> dict[str, Evaluate]:
    """Return name -> function of truth and detections; pycocotools comes first."""
    evaluators: dict[str, Evaluate] = {"pycocotools": partial(evaluate, COCOeval)}
    if has_compiled_ops():
        from detectron2.evaluation.fast_eval_api import COCOeval_opt

        evaluators["Detectron2, compiled"] = partial(evaluate, COCOeval_opt)
    with contextlib.suppress(ImportError):
        from faster_coco_eval import COCOeval_faster

        evaluators["faster-coco-eval"] = partial(evaluate, COCOeval_faster)
    if has_hotcoco():
        evaluators["hotcoco"] = evaluate_by_hotcoco
    return evaluators


def draw(num_images: int, num_detections: int, classes: int) -> tuple[COCO, list[dict[str, Any]]]:
    generator = np.random.default_rng(classes)
    num_objects = OBJECTS_PER_IMAGE * num_images
    images = generator.integers(0, num_images, num_objects)
    boxes = draw_boxes(generator, num_objects)
    categories = generator.integers(0, classes, num_objects)

    of_object = generator.integers(0, num_objects, num_detections)
    moved = boxes[of_object] * generator.normal(1, 0.05, (num_detections, 4))
    is_near = generator.random((num_detections, 1)) < NEAR_AN_OBJECT
    found_boxes = np.where(is_near, moved, draw_boxes(generator, num_detections))
    found_categories = np.where(
        is_near[:, 0], categories[of_object], generator.integers(0, classes, num_detections)
    )
    scores = generator.permutation(num_detections) / num_detections

    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(num_images)],
        "categories": [{"id": k, "name": str(k)} for k in range(classes)],
        "annotations": [
            {"id": i + 1, **entry, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
            for i, entry in enumerate(entries(images, categories, boxes))
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    found = entries(images[of_object], found_categories, found_boxes)
    scored = zip(found, scores.tolist(), strict=True)
    return truth, [{**entry, "score": score} for entry, score in scored]


def draw_boxes(generator: np.random.Generator, number: int) -> np.ndarray:
    """Draw (number, 4) x, y, width, height, with sizes log-uniform from 8 to 320 pixels."""
    sizes = np.exp(generator.uniform(np.log(8), np.log(320), (number, 2)))
    return np.concatenate([generator.uniform(0, IMAGE_SIZE - sizes), sizes], axis=1)


def entries(images: np.ndarray, categories: np.ndarray, boxes: np.ndarray) -> list[dict[str, Any]]:
    rows = zip(images.tolist(), categories.tolist(), boxes.tolist(), strict=True)
    return [{"image_id": i, "category_id": k, "bbox": box} for i, k, box in rows]


def measure(
    classes: int, truth: COCO, detections: list[dict[str, Any]], rounds: int
) -> list[dict[str, Any]]:
    variants = {
        name: partial(evaluator, truth, detections)
        for name, evaluator in installed_evaluators().items()
    }
    expected = variants["pycocotools"]()
    for name, work in variants.items():
        np.testing.assert_allclose(work(), expected, rtol=0, atol=1e-12, err_msg=name)
    timings = harness.take_turns(variants, rounds, warmup=0)
    slowest = timings["pycocotools"].cpu_ms
    return [
        {
            "classes": classes,
            "evaluator": name,
            **timing._asdict(),
            "times faster (cpu)": slowest / timing.cpu_ms,
        }
        for name, timing in timings.items()
    ]


def evaluate(evaluator: Any, truth: COCO, detections: list[dict[str, Any]]) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluator(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def evaluate_by_hotcoco(truth: COCO, detections: list[dict[str, Any]]) -> np.ndarray:
    evaluation = COCOeval(iouType="bbox")
    evaluation.eval = curves(truth, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return np.asarray(evaluation.stats)


if __name__ == "__main__":
    main()
