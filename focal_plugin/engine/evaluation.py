"""
Detectron2's COCO evaluator with the fastest installed implementation of the box AP.

Its result does not depend on the ids of the annotations: see :class:`NumberedCOCOEvaluator`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.utils.logger import log_first_n
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from focal_plugin_doctor import has_compiled_ops, has_hotcoco

from ..data.coco_ids import MAX_FLOAT
from ..data.ignore_regions import spread_over_classes
from ..files import write_json
from ..run_folder import THRESHOLDS_NAME
from .score_thresholds import score_thresholds

logger = logging.getLogger(__name__)


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
    if has_hotcoco():
        return HotCOCOEvaluator(dataset_name, output_dir, keypoint_sigmas)
    return NumberedCOCOEvaluator(dataset_name, output_dir, keypoint_sigmas)


def evaluator_in_use() -> str:
    """Return the implementation of the box AP in this environment, for logs and records."""
    if has_hotcoco():
        return f"hotcoco {importlib.metadata.version('hotcoco')}"
    return "detectron2, compiled" if has_compiled_ops() else "pycocotools"


class NumberedCOCOEvaluator(COCOEvaluator):
    """
    COCO evaluator whose result does not depend on the ids of the annotations.

    It has the interface of :class:`detectron2.evaluation.COCOEvaluator` with default options. The
    parent computes with the ids of annotations: 0 counts as no match, a text is an error, the
    compiled code cannot hold 2**64, and of two with one id only the last one counts. Such
    annotations are numbered from 1. A region of every class
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
    """Give the annotations the ids 1, 2, 3, ..., unless all are different and from 1 to 2**53."""
    annotations = ground_truth.dataset.get("annotations", [])
    ids = {entry["id"] for entry in annotations}
    if len(ids) == len(annotations) and all(type(i) is int and 0 < i <= MAX_FLOAT for i in ids):
        return
    for number, entry in enumerate(annotations, start=1):
        entry["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()


class HotCOCOEvaluator(NumberedCOCOEvaluator):
    """
    COCO evaluator whose box AP is computed by hotcoco.

    The parent evaluates masks and keypoints. It also evaluates boxes that hotcoco refuses.
    """

    def _tasks_from_predictions(self, predictions: list[dict[str, Any]]) -> list[str]:
        tasks = super()._tasks_from_predictions(predictions)
        if not hotcoco_accepts(self._coco_api, predictions):
            logger.warning(
                f"{self._metadata.name}: hotcoco is not used, because an id is not an integer from "
                "0 to 2**64 - 1, or a box, an area or a score is not finite"
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

    def _evaluate_boxes(
        self, detections: list[dict[str, Any]], img_ids: list[int] | None
    ) -> COCOeval:
        self._logger.info(f"Evaluating boxes with {evaluator_in_use()} ...")
        evaluation = COCOeval(iouType="bbox")
        evaluation.eval = curves(self._coco_api, detections, img_ids)
        evaluation.summarize()  # prints the table of pycocotools
        return evaluation


def curves(
    ground_truth: COCO, detections: list[dict[str, Any]], img_ids: list[int] | None = None
) -> dict[str, Any]:
    """
    Compute what `COCOeval.accumulate` of pycocotools computes for boxes, by hotcoco.

    Args:
        ground_truth, detections: legal according to :func:`hotcoco_accepts`.
        img_ids: the images to evaluate; None: all.

    Returns:
        the arrays "precision", "recall" and "scores", and their axes.
    """
    import hotcoco

    truth = hotcoco.COCO(boxes_only(ground_truth.dataset))
    found = truth.load_res(_chosen(detections, "image_id", "category_id", "bbox", "score"))
    evaluation = hotcoco.COCOeval(truth, found, "bbox")
    if img_ids is not None:
        evaluation.params.img_ids = img_ids
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval is not None
    return evaluation.eval


def boxes_only(dataset: dict[str, Any]) -> dict[str, Any]:
    """
    Return a COCO dataset without the fields that the box AP does not depend on.

    hotcoco checks the types of all fields, but a size or a mask may be anything here.
    """
    return {
        "images": _chosen(dataset["images"], "id"),
        "categories": [{"id": entry["id"], "name": ""} for entry in dataset["categories"]],
        "annotations": _chosen(
            dataset["annotations"], "id", "image_id", "category_id", "bbox", "area", "iscrowd"
        ),
    }


def _chosen(entries: Iterable[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: entry[name] for name in names if name in entry} for entry in entries]


def hotcoco_accepts(ground_truth: COCO, detections: Iterable[dict[str, Any]]) -> bool:
    """
    Return True if hotcoco evaluates this data, and then with the result of pycocotools.

    It holds ids as unsigned integers of 64 bits, and refuses a score of NaN.
    """
    annotations = ground_truth.anns.values()
    return (
        all(map(_is_id, [*ground_truth.imgs, *ground_truth.cats, *ground_truth.anns]))
        and all(isinstance(entry.get("iscrowd", 0), int) for entry in annotations)
        and all(_is_finite(entry["bbox"], entry.get("area")) for entry in annotations)
        and all(_is_finite(entry["bbox"], entry["score"]) for entry in detections)
    )


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**64


def _is_finite(box: Iterable[Any], value: Any) -> bool:
    return all(type(x) in (int, float) and abs(x) <= sys.float_info.max for x in (*box, value))
