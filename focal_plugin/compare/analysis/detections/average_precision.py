"""
Average precision of COCO for the detections of a run, with a weight per image.

pycocotools matches detections and objects once. All later steps are sums over images, so an image
of weight 2 counts as two copies. A bootstrap over images requires no further matching.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....ops.weighted_ap import weighted_ap
from ....ops.weighted_ap_eager import envelope
from .coco_json import Detections, GroundTruth, read_detections, read_ground_truth
from .match_boxes import (
    AREAS,
    OF_DETECTIONS,
    ClassMatches,
    iou_thresholds,
    match,
    recall_thresholds,
)

IOUS = iou_thresholds()
RECALLS = recall_thresholds()
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")
"""Metrics of pycocotools; AR is the one at 100 detections per class and image."""

# Metric -> object size and IoU thresholds of its mean
_PARTS = {
    "AP": ("all", slice(None)),
    "AP50": ("all", slice(0, 1)),
    "AP75": ("all", slice(5, 6)),
    "APs": ("small", slice(None)),
    "APm": ("medium", slice(None)),
    "APl": ("large", slice(None)),
    "AR": ("all", slice(None)),
}


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """
    Averages as fractions; NaN without objects.

    Attributes:
        averages: metric -> float, or (B,) for B rows of weights.
        per_class: (K,) or (B, K) AP by class; None if "AP" was not requested.
    """

    averages: dict[str, Any]
    per_class: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """
    Matched detections of a run; :func:`evaluate` makes it.

    Attributes:
        ground_truth: annotations of the dataset.
        detections: all detections of the run.
        classes: matches of each class, of all detections or of those that :meth:`keep` kept.
    """

    ground_truth: GroundTruth
    detections: Detections
    classes: tuple[ClassMatches, ...]

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the I images, ascending, which is the order of the weights."""
        return self.ground_truth.image_ids

    @property
    def category_ids(self) -> tuple[int | str, ...]:
        """Ids of the K categories, ascending, which is the order of the classes."""
        return self.ground_truth.category_ids

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the classes; two may be equal."""
        return self.ground_truth.class_names

    @property
    def has_detections(self) -> bool:
        """True if the run detected anything; without detections its AP is 0."""
        return len(self.detections.score) > 0

    @property
    def objects_per_class(self) -> np.ndarray:
        """Number of objects per class, (K,), without crowds."""
        return np.array([matches.objects[0].sum() for matches in self.classes], dtype=int)

    def same_ground_truth_as(self, other: Evaluation) -> bool:
        """Return True if images, categories and annotations are equal."""
        return self.ground_truth.digest == other.ground_truth.digest

    def keep(self, kept: np.ndarray) -> Evaluation:
        """
        Return the evaluation of fewer detections.

        The best detection chooses its object first. So a detection keeps its object if no better
        detection of the same image and class is left out.

        Args:
            kept: (D,) True for the detections that stay: of each image and class those with the
                highest scores.
        """
        classes = []
        for matches in self.classes:
            rows = np.flatnonzero(kept[matches.detection])
            classes.append(
                replace(
                    matches,
                    **{name: getattr(matches, name).take(rows, axis=-1) for name in OF_DETECTIONS},
                )
            )
        return replace(self, classes=tuple(classes))

    def average_precision(
        self, weights: np.ndarray | None = None, metrics: tuple[str, ...] = METRICS
    ) -> AveragePrecision:
        """
        Return the averages of COCO.

        They equal pycocotools at weight 1. For integer weights they equal pycocotools on that many
        copies of each image, with one exception. Copies of a correct and a false detection with
        equal score, image and class would alternate in pycocotools; here they do not.

        Args:
            weights: (I,) or (B, I), finite, >= 0, one per image. None for 1 each.
            metrics: requested entries of :data:`METRICS`.

        Raises:
            ValueError: the weights have another shape or range, or a metric is unknown.
        """
        unknown = sorted(set(metrics) - set(METRICS))
        if unknown:
            raise ValueError(f"metrics must be of {METRICS}, got {unknown}")
        images = len(self.image_ids)
        rows = np.ones(images) if weights is None else np.asarray(weights, dtype=np.float64)
        if rows.ndim not in (1, 2) or rows.shape[-1] != images:
            raise ValueError(f"weights must be ({images},) or (B, {images}), got {rows.shape}")
        if not (np.isfinite(rows).all() and (rows >= 0).all()):
            raise ValueError("weights must be finite and >= 0")

        by_class = self._by_class(np.ascontiguousarray(np.atleast_2d(rows).T), metrics)
        if rows.ndim == 1:
            by_class = {name: values[0] for name, values in by_class.items()}
        means = {name: _mean_of_defined(by_class[name]) for name in metrics}
        averages = {name: float(v) if rows.ndim == 1 else v for name, v in means.items()}
        return AveragePrecision(averages, by_class.get("AP"))

    def precision_recall(
        self, iou: float = 0.5, class_index: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Return a precision-recall curve.

        Args:
            iou: one of .5, .55, ... .95.
            class_index: index in the order of ``category_ids``. None for the mean over the classes
                with objects.

        Returns:
            Recall and precision, both (101,). Recall is 0, .01, ... 1. Precision is the largest one
            at that recall or above. It is 0 if no detection reaches the recall, and NaN without
            objects.
        """
        threshold = _index_of_iou(iou)
        if class_index is not None:
            return RECALLS, _curve(self.classes[class_index], threshold)
        curves = np.array([_curve(matches, threshold) for matches in self.classes])
        return RECALLS, _mean_of_defined(curves.T.reshape(len(RECALLS), -1))

    def _by_class(self, weights: np.ndarray, metrics: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Return metric -> (B, K), for (I, B) weights."""
        values: dict[str, np.ndarray] = {}
        for area, name_of_area in enumerate(AREAS):
            of_area = [name for name in metrics if _PARTS[name][0] == name_of_area]
            if of_area:
                precision, recall = self._by_threshold(weights, area)
            for name in of_area:
                curve = recall if name == "AR" else precision
                values[name] = curve[:, :, _PARTS[name][1]].mean(axis=2)
        return values

    def _by_threshold(self, weights: np.ndarray, area: int) -> tuple[np.ndarray, np.ndarray]:
        """Return average precision and recall, (B, K, T) each, for (I, B) weights."""
        shape = (weights.shape[1], len(self.classes), len(IOUS))
        precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
        for k, matches in enumerate(self.classes):
            precision[:, k], recall[:, k] = accumulate(
                matches.matched[area],
                matches.ignored[area],
                matches.image,
                weights,
                matches.objects[area] @ weights[matches.images],
            )
        return precision, recall


def evaluate(
    ground_truth: Path | GroundTruth, detections_json: Path | list[dict[str, Any]]
) -> Evaluation:
    """
    Match the detections of a run with the ground truth.

    Args:
        ground_truth: COCO json of the annotations, or its content for several runs.
        detections_json: `coco_instances_results.json`, or its content. An empty list has an AP of 0
            and sets ``has_detections`` to False.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: an entry is malformed; the message names file and entry.
    """
    if isinstance(ground_truth, Path):
        ground_truth = read_ground_truth(ground_truth)
    detections = read_detections(detections_json, ground_truth)
    return Evaluation(ground_truth, detections, match(ground_truth, detections))


def accumulate(*arrays: np.ndarray) -> np.ndarray:
    """
    Call :func:`~focal_plugin.ops.weighted_ap.weighted_ap` for arrays.

    NumPy copies what is not contiguous. PyTorch would start threads for that, which spin.
    """
    tensors = map(torch.from_numpy, map(np.ascontiguousarray, arrays))
    return weighted_ap(*tensors).numpy()


def _curve(matches: ClassMatches, threshold: int) -> np.ndarray:
    """Return (101,) the precision at :data:`RECALLS`, all areas."""
    total = matches.objects[0].sum()
    if total == 0:
        return np.full(len(RECALLS), np.nan)
    counted = ~matches.ignored[0, threshold]
    hits = np.flatnonzero(matches.matched[0, threshold] & counted)
    right = np.arange(1.0, len(hits) + 1)[:, None]
    shown = np.cumsum(counted, dtype=float)[hits][:, None]
    highest, spans = envelope(right, shown, np.array([total]), *np.empty((2, *right.shape)))
    reached = np.repeat(highest[:, 0], spans[:, 0].astype(int))
    return np.pad(reached, (0, len(RECALLS) - len(reached)))


def _index_of_iou(iou: float) -> int:
    index = int(np.abs(IOUS - iou).argmin())
    if abs(IOUS[index] - iou) > 1e-9:
        raise ValueError(f"iou must be one of {IOUS.round(2).tolist()}, got {iou}")
    return index


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis without NaN; NaN if all values are NaN."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
