"""Length of the lists of detections of a run, and AP that shorter lists would cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...plan.score_threshold import STOCK_SCORE_THRESHOLD
from .average_precision import Evaluation
from .coco_json import Detections
from .match_boxes import ascending

# Without a known limit: share of the images that must have equally many detections
_LIMITED = 0.05


@dataclass(frozen=True)
class ListFacts:
    """
    Lists of detections of a run, one per image.

    Attributes:
        detections: number of detections on all images.
        per_image: mean number of detections of an image.
        lowest: lowest score; None without detections.
        limit: most detections that the run keeps on an image; None if it has no limit, or if the
            limit is unknown and no two images seem to reach it.
        full: share of the images that reach the limit; 0 without a limit.
        cut_cost: AP, a fraction, that a score cut-off of
            :data:`~focal_plugin.compare.plan.score_threshold.STOCK_SCORE_THRESHOLD` would cost;
            NaN if the scores are not in [0, 1].
        limit_cost: AP, a fraction, that half the limit would cost; 0 if no image reaches the limit.
    """

    detections: int
    per_image: float
    lowest: float | None
    limit: int | None
    full: float
    cut_cost: float
    limit_cost: float


def list_facts(evaluation: Evaluation, ap: float, *, limit: int | None = None) -> ListFacts:
    """
    Return the facts of the lists of a run.

    Args:
        ap: AP of the run, a fraction.
        limit: most detections that the run keeps on an image. None if it is not known: then it is
            the largest number of detections, if one image in twenty has it.
    """
    detections = evaluation.detections
    score, images = detections.score, len(evaluation.image_ids)
    lengths = np.bincount(detections.image, minlength=images)
    if limit is None:
        limit = _apparent_limit(lengths)
    full = float((lengths >= limit).mean()) if limit and images else 0.0
    cut_cost = limit_cost = 0.0
    if len(score) and (score.min() < 0 or score.max() > 1):
        cut_cost = float("nan")
    elif len(score):
        cut_cost = ap - _ap(evaluation.keep(score > STOCK_SCORE_THRESHOLD))
    if limit and full:
        limit_cost = ap - _ap(evaluation.keep(_best(detections, limit // 2)))
    return ListFacts(
        detections=len(score),
        per_image=len(score) / images if images else 0.0,
        lowest=float(score.min()) if len(score) else None,
        limit=limit,
        full=full,
        cut_cost=cut_cost,
        limit_cost=limit_cost,
    )


def _ap(evaluation: Evaluation) -> float:
    return float(evaluation.average_precision(metrics=("AP",)).averages["AP"])


def _apparent_limit(lengths: np.ndarray) -> int | None:
    """Return the limit that the numbers of detections, (I,), suggest."""
    most = int(lengths.max(initial=0))
    reached = int((lengths == most).sum())
    return most if most > 1 and reached > 1 and reached >= _LIMITED * len(lengths) else None


def _best(detections: Detections, number: int) -> np.ndarray:
    """Return (D,) True for the detections with the highest scores of each image."""
    order = detections.order[ascending(detections.image[detections.order])]
    image = detections.image[order]
    rank = np.arange(len(order)) - np.searchsorted(image, image)
    best = np.empty(len(order), dtype=bool)
    best[order] = rank < number
    return best
