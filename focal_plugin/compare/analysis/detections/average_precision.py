"""
COCO's average precision of a run's detections, with a weight per image.

pycocotools matches detections with objects once; everything after that is a sum over images, so
that an image of weight 2 counts as two copies of it and a bootstrap over images matches nothing
again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .coco_json import Detections, GroundTruth, read_detections, read_ground_truth
from .match_boxes import AREAS, ClassMatches, iou_thresholds, match, recall_thresholds

IOUS = iou_thresholds()
RECALLS = recall_thresholds()
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")
"""As in pycocotools; AR is that at 100 detections of a class on an image."""

# Metric -> the sizes of objects and the IoU thresholds that it is the mean of
_PARTS = {
    "AP": ("all", slice(None)),
    "AP50": ("all", slice(0, 1)),
    "AP75": ("all", slice(5, 6)),
    "APs": ("small", slice(None)),
    "APm": ("medium", slice(None)),
    "APl": ("large", slice(None)),
    "AR": ("all", slice(None)),
}
# Numbers (weights of detections) held at once: 32 MiB
_CHUNK = 2**22


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """
    Fractions; NaN where there is nothing to find.

    Attributes:
        averages: metric -> float, or (B,) for B rows of weights.
        per_class: (K,) or (B, K) AP by class; None if "AP" was not asked for.
    """

    averages: dict[str, Any]
    per_class: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """
    The detections of a run, matched. Made by :func:`evaluate`.

    Attributes:
        ground_truth: what there was to find.
        detections: all of the run.
        classes: the matches, one per class.
    """

    ground_truth: GroundTruth
    detections: Detections
    classes: tuple[ClassMatches, ...]

    @property
    def image_ids(self) -> tuple[int, ...]:
        """Ascending, the order of the weights; I of them."""
        return self.ground_truth.image_ids

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Ascending, the order of the classes; K of them."""
        return self.ground_truth.category_ids

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the classes; two may be equal."""
        return self.ground_truth.class_names

    @property
    def has_detections(self) -> bool:
        """False: the run detected nothing at all, which is an AP of 0."""
        return len(self.detections.score) > 0

    @property
    def objects_per_class(self) -> np.ndarray:
        """(K,) how many there are to find, crowds left out."""
        return np.array([matches.objects[0].sum() for matches in self.classes], dtype=int)

    def same_ground_truth_as(self, other: Evaluation) -> bool:
        """Images, categories and annotations are equal."""
        return self.ground_truth.digest == other.ground_truth.digest

    def average_precision(
        self, weights: np.ndarray | None = None, metrics: tuple[str, ...] = METRICS
    ) -> AveragePrecision:
        """
        The averages of COCO: those of pycocotools at weight one, and for whole weights those of
        pycocotools on as many copies of each image. (The copies of a right and of a wrong detection
        with one score, on one image and of one class, would alternate; here they do not.)

        Args:
            weights: (I,) or (B, I), finite, >= 0, one per image. None: 1 each.
            metrics: of :data:`METRICS`; only these are computed.

        Raises:
            ValueError: weights of another shape or range, an unknown metric.
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
        Args:
            iou: one of .5, .55, ... .95.
            class_index: in the order of ``category_ids``. None: the mean over the classes that
                have objects.

        Returns:
            recall and precision, both (101,). Recall is 0, .01, ... 1. Precision is the largest at
            that recall or a higher one. It is 0 where no detection reaches the recall, and NaN if
            there is nothing to find.
        """
        threshold = _index_of_iou(iou)
        if class_index is not None:
            return RECALLS, _curve(self.classes[class_index], threshold)
        curves = np.array([_curve(matches, threshold) for matches in self.classes])
        return RECALLS, _mean_of_defined(curves.T.reshape(len(RECALLS), -1))

    def _by_class(self, weights: np.ndarray, metrics: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Metric -> (B, K)."""
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
        """Average precision and recall, (B, K, T) each."""
        shape = (len(weights), len(self.classes), len(IOUS))
        precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
        for k, matches in enumerate(self.classes):
            precision[:, k], recall[:, k] = accumulate(
                matches.matched[area],
                matches.ignored[area],
                matches.image,
                weights,
                weights @ matches.objects[area],
            )
        return precision, recall


def evaluate(
    ground_truth: Path | GroundTruth, detections_json: Path | list[dict[str, Any]]
) -> Evaluation:
    """
    Args:
        ground_truth: the annotations, COCO json, or what was read of it, for many runs.
        detections_json: `coco_instances_results.json`, or its content. An empty list is an AP of 0
            and sets ``has_detections`` to False.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an entry is not what it must be; the message names file and entry.
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
    Average precision and final recall of one class.

    Args:
        matched: (T, N) bool, detections in falling order of their scores.
        ignored: (T, N) bool.
        image: (N,) index into the weights.
        weights: (B, I).
        total: (B,) weighted number of objects.

    Returns:
        (B, T) each, NaN where the total is 0.
    """
    shape = (len(weights), len(matched))
    precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
    there = total > 0
    if not there.any():
        return precision, recall
    weights, total = weights[there], total[there]
    # What counts at every threshold, nearly all, is summed once for all of them
    always = ~ignored.any(axis=0)
    seen = _Cumulative(np.flatnonzero(always), image, weights)
    for t in range(len(matched)):
        hits = np.flatnonzero(matched[t] & ~ignored[t])
        sometimes = _Cumulative(np.flatnonzero(~ignored[t] & ~always), image, weights)
        right = np.cumsum(weights[:, image[hits]], axis=1)
        envelope, spans = _envelope(right, seen.up_to(hits) + sometimes.up_to(hits), total)
        precision[there, t] = (envelope * spans).sum(axis=1) / len(RECALLS)
        recall[there, t] = right[:, -1] / total if len(hits) else 0.0
    return precision, recall


class _Cumulative:
    """The weight of some detections up to a given one."""

    def __init__(self, positions: np.ndarray, image: np.ndarray, weights: np.ndarray) -> None:
        self._positions = positions
        self._sums = np.zeros((len(weights), len(positions) + 1))
        np.cumsum(weights[:, image[positions]], axis=1, out=self._sums[:, 1:])

    def up_to(self, at: np.ndarray) -> np.ndarray:
        """(B, len(at)), the detections at these positions included."""
        return self._sums[:, np.searchsorted(self._positions, at, side="right")]


def _envelope(
    right: np.ndarray, shown: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    The precision-recall curve at the P true positives, the only places where either can rise.

    Args:
        right: (B, P) weight of the true positives up to each.
        shown: (B, P) weight of all detections up to each.
        total: (B,) weight of the objects, > 0.

    Returns:
        precision: (B, P), the largest at this true positive or a later one.
        spans: (B, P) how many of :data:`RECALLS` are reached at it and not before.
    """
    # The same operations as in pycocotools, so that not even a rounding differs
    precision = right / (shown + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, right / total[:, None], side="right")
    return envelope, np.diff(reached, axis=1, prepend=0)


def _curve(matches: ClassMatches, threshold: int) -> np.ndarray:
    """(101,) precision at :data:`RECALLS`, all areas."""
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
    """The mean over the last axis without the NaN; NaN if there is nothing else."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
