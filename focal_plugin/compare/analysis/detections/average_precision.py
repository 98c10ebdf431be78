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
from scipy.sparse import csr_array

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

_NEXT_RECALLS = np.append(RECALLS[1:], np.inf)

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
# Weights of detections in memory at once: 32 MiB
_CHUNK = 2**22


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
            rows = kept[matches.detection]
            classes.append(
                replace(
                    matches,
                    **{name: getattr(matches, name)[..., rows] for name in OF_DETECTIONS},
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

        largest = max((len(matches.score) for matches in self.classes), default=0)
        step = max(1, _CHUNK // max(1, largest))
        matrix = np.atleast_2d(rows)
        starts = range(0, max(1, len(matrix)), step)
        parts = [self._by_class(matrix[i : i + step], metrics) for i in starts]
        by_class = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
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
        """Return metric -> (B, K)."""
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
        """Return average precision and recall, (B, K, T) each."""
        shape = (len(weights), len(self.classes), len(IOUS))
        precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
        for k, matches in enumerate(self.classes):
            precision[:, k], recall[:, k] = accumulate(
                matches.matched[area],
                matches.ignored[area],
                matches.image,
                weights,
                weights[:, matches.images] @ matches.objects[area],
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


def accumulate(
    matched: np.ndarray,
    ignored: np.ndarray,
    image: np.ndarray,
    weights: np.ndarray,
    total: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Return average precision and final recall of one class.

    Args:
        matched: (T, N) bool, detections by descending score.
        ignored: (T, N) bool.
        image: (N,) index into the weights.
        weights: (B, I) weights of the images.
        total: (B,) weighted number of objects.

    Returns:
        Precision and recall, (B, T) each, NaN if the total is 0.
    """
    shape = (len(weights), len(matched))
    precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
    there = total > 0
    if not there.any():
        return precision, recall
    weights, total = weights[there], total[there]
    counted = ~ignored
    right = matched & counted
    # The curve can only rise at a true positive. Nearly all detections count at every threshold;
    # they are summed once for all thresholds
    always, rises = counted.all(axis=0), np.flatnonzero(right.any(axis=0))
    shown_always = _weight_up_to(rises, np.flatnonzero(always), image, weights)
    for t in range(len(matched)):
        hits = np.flatnonzero(right[t])
        shown = shown_always[:, np.searchsorted(rises, hits)]
        sometimes = np.flatnonzero(counted[t] & ~always)
        if len(sometimes):
            shown = shown + _weight_up_to(hits, sometimes, image, weights)
        found = np.cumsum(weights[:, image[hits]], axis=1)
        envelope, spans = _envelope(found, shown, total)
        precision[there, t] = (envelope * spans).sum(axis=1) / len(RECALLS)
        recall[there, t] = found[:, -1] / total if len(hits) else 0.0
    return precision, recall


def _weight_up_to(
    places: np.ndarray, subset: np.ndarray, image: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """
    Return (B, P) the weight of the detections of a subset up to each place, inclusive.

    Args:
        places: (P,) places among the detections, ascending.
        subset: places of the detections that count, ascending.
        image: (N,) index into the weights.
        weights: (B, I) weights of the images.
    """
    # A row is what lies between two places; the places are few
    ends = np.searchsorted(subset, places, side="right")
    counted = image[subset[: ends[-1] if len(ends) else 0]]
    rows = (np.ones(len(counted)), counted, np.append(0, ends))
    between = csr_array(rows, shape=(len(places), weights.shape[1])) @ weights.T
    return np.cumsum(between, axis=0).T


def _envelope(
    right: np.ndarray, shown: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the precision-recall curve at the P true positives, the only points where it can rise.

    Args:
        right: (B, P) weight of the true positives up to each.
        shown: (B, P) weight of all detections up to each.
        total: (B,) weight of the objects, > 0.

    Returns:
        precision: (B, P) largest precision at this true positive or a later one.
        spans: (B, P) number of :data:`RECALLS` that are first reached at this true positive.
    """
    # The operations are those of pycocotools, so the rounding is the same
    precision = right / (shown + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return envelope, np.diff(recalls_reached(right / total[:, None]), axis=1, prepend=0)


def recalls_reached(recall: np.ndarray) -> np.ndarray:
    """
    Return how many of :data:`RECALLS` are at most each recall, which is in [0, 1].

    It is `np.searchsorted(RECALLS, recall, side="right")`, four times as fast.
    """
    below = (100 * recall).astype(np.int32)  # RECALLS are i / 100, rounded, and so is this
    return below + (RECALLS.take(below) <= recall) + (_NEXT_RECALLS.take(below) <= recall)


def _curve(matches: ClassMatches, threshold: int) -> np.ndarray:
    """Return (101,) the precision at :data:`RECALLS`, all areas."""
    total = matches.objects[0].sum()
    if total == 0:
        return np.full(len(RECALLS), np.nan)
    counted = ~matches.ignored[0, threshold]
    hits = np.flatnonzero(matches.matched[0, threshold] & counted)
    right = np.arange(1.0, len(hits) + 1)[None]
    shown = np.cumsum(counted)[hits][None]
    envelope, spans = _envelope(right, shown, np.array([total]))
    curve = np.zeros(len(RECALLS))
    curve[: spans.sum()] = np.repeat(envelope[0], spans[0])
    return curve


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
