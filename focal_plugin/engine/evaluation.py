"""
Detectron2's COCO evaluator with the fastest installed implementation of the box AP.

Its result does not depend on the ids of the annotations: see :class:`NumberedCOCOEvaluator`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.logger import log_first_n
from pycocotools.coco import COCO

from focal_plugin_doctor import has_compiled_ops, has_faster_coco_eval

from ..data.coco_ids import MAX_FLOAT
from ..data.ignore_regions import spread_over_classes
from ..files import write_json
from ..run_folder import THRESHOLDS_NAME
from .score_thresholds import score_thresholds

logger = logging.getLogger(__name__)

MAX_FLOAT32 = torch.finfo(torch.float32).max
"""Largest finite coordinate of a detection."""


def build_coco_evaluator(
    dataset_name: str, output_dir: str, keypoint_sigmas: Sequence[float] = ()
) -> COCOEvaluator:
    """
    Build the evaluator of a dataset. Its statistics equal those of pycocotools.

    The first evaluator logs the name of its implementation.

    Args:
        dataset_name: registered dataset in COCO format, or convertible to it.
        output_dir: output folder of the detections.
        keypoint_sigmas: one per keypoint, for its similarity; none: those of COCO.
    """
    log_first_n(logging.INFO, f"Box AP is computed by {evaluator_in_use()}", name=__name__)
    if has_faster_coco_eval():
        return FasterCOCOEvaluator(dataset_name, output_dir, keypoint_sigmas)
    return NumberedCOCOEvaluator(dataset_name, output_dir, keypoint_sigmas)


def evaluator_in_use() -> str:
    """Return the implementation of the box AP in this environment, for logs and records."""
    if has_faster_coco_eval():
        return f"faster-coco-eval {importlib.metadata.version('faster-coco-eval')}"
    return "detectron2, compiled" if has_compiled_ops() else "pycocotools"


class NumberedCOCOEvaluator(COCOEvaluator):
    """
    COCO evaluator whose result does not depend on the ids of the annotations.

    It has the interface of :class:`detectron2.evaluation.COCOEvaluator` with default options. The
    parent computes with the ids of annotations: 0 counts as no match, a text is an error, and the
    compiled code cannot hold 2**64. Such annotations are numbered from 1. A region of every class
    becomes a crowd region of each.

    Beside the detections it writes their F1-best score thresholds, for `focal-plugin predict`.
    """

    def __init__(
        self, dataset_name: str, output_dir: str, keypoint_sigmas: Sequence[float] = ()
    ) -> None:
        super().__init__(
            dataset_name,
            output_dir=output_dir,
            use_fast_impl=has_compiled_ops(),
            kpt_oks_sigmas=keypoint_sigmas,
        )
        spread_over_classes(self._coco_api)
        number_annotations(self._coco_api)

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: list[int] | None = None
    ) -> None:
        super()._eval_predictions(predictions, img_ids)
        if self._do_evaluation and self._output_dir:
            # The parent has converted the category ids in place
            detections = [entry for image in predictions for entry in image["instances"]]
            found = score_thresholds(
                self._coco_api, detections, test_set=self._metadata.name, image_ids=img_ids
            )
            write_json(Path(self._output_dir, THRESHOLDS_NAME), asdict(found))


def number_annotations(ground_truth: COCO) -> None:
    """Give the annotations the ids 1, 2, 3, ..., unless all are integers from 1 to 2**53."""
    annotations = ground_truth.dataset.get("annotations", [])
    if all(type(entry["id"]) is int and 0 < entry["id"] <= MAX_FLOAT for entry in annotations):
        return
    for number, entry in enumerate(annotations, start=1):
        entry["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()


class FasterCOCOEvaluator(NumberedCOCOEvaluator):
    """
    COCO evaluator whose box AP is computed by faster-coco-eval.

    The parent evaluates masks and keypoints. It also evaluates boxes if faster-coco-eval would not
    give the result of pycocotools.
    """

    def _tasks_from_predictions(self, predictions: list[dict[str, Any]]) -> list[str]:
        tasks = super()._tasks_from_predictions(predictions)
        if not agrees_with_pycocotools(self._coco_api, predictions):
            logger.warning(
                f"{self._metadata.name}: faster-coco-eval is not used, because an id is not an "
                "integer from 0 to 2**53, or a box, an area or a score is not finite"
            )
            return tasks
        return [task for task in tasks if task != "bbox"]

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: list[int] | None = None
    ) -> None:
        # The parent converts the category ids in place, and evaluates its tasks.
        super()._eval_predictions(predictions, img_ids)
        if not self._do_evaluation or "bbox" in self._results:
            return
        detections = [entry for image in predictions for entry in image["instances"]]
        evaluation = self._evaluate_boxes(detections, img_ids) if detections else None
        names = self._metadata.get("thing_classes")
        self._results["bbox"] = self._derive_coco_results(evaluation, "bbox", class_names=names)
        self._results.move_to_end("bbox", last=False)  # the parent's order

    def _evaluate_boxes(self, detections: list[dict[str, Any]], img_ids: list[int] | None) -> Any:
        from faster_coco_eval import COCOeval_faster

        self._logger.info(f"Evaluating boxes with {evaluator_in_use()} ...")
        found = self._coco_api.loadRes(detections)
        # It prints its table, as pycocotools does.
        evaluation = COCOeval_faster(self._coco_api, found, "bbox", print_function=print)
        if img_ids is not None:
            evaluation.params.imgIds = img_ids
        evaluation.run()
        return evaluation


def agrees_with_pycocotools(ground_truth: COCO, detections: Iterable[dict[str, Any]]) -> bool:
    """
    Return True if faster-coco-eval is known to give the result of pycocotools on this data.

    faster-coco-eval never matches annotations with a negative id, holds the ids of images and
    categories as float64, and does not support ids that are strings. pycocotools matches a box with
    a NaN to every object.
    """
    annotations = ground_truth.anns.values()
    return (
        all(map(_is_id, [*ground_truth.imgs, *ground_truth.cats, *ground_truth.anns]))
        and all(isinstance(entry.get("iscrowd", 0), int) for entry in annotations)
        and all(_is_finite(entry["bbox"], entry.get("area")) for entry in annotations)
        and all(_is_finite(entry["bbox"], entry["score"]) for entry in detections)
    )


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_FLOAT


def _is_finite(box: Iterable[Any], value: Any) -> bool:
    return all(type(x) in (int, float) and abs(x) <= MAX_FLOAT32 for x in (*box, value))
