"""Selection of the images on which the arms differ most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ....score_thresholds import best_f1
from .average_precision import Evaluation


class ImageScores(NamedTuple):
    """
    F1 of each image for one run.

    Attributes:
        digest: digest of the ground truth.
        threshold: score threshold of the run, see :func:`best_threshold`.
        f1: (I,) F1 of each image, see :func:`image_f1`.
        objects: (I,) number of objects of each image, without crowds.
    """

    digest: str
    threshold: float
    f1: np.ndarray
    objects: np.ndarray


def image_scores(evaluation: Evaluation) -> ImageScores:
    """Return the F1 of each image at the best threshold of the run."""
    threshold = best_threshold(evaluation)
    f1, objects = image_f1(evaluation, threshold), _objects(evaluation)
    return ImageScores(evaluation.ground_truth.digest, threshold, f1, objects)


def most_different_images(
    scores: Mapping[str, ImageScores], image_ids: Sequence[int | str], count: int
) -> list[int | str]:
    """
    Return the images with the largest difference of F1 between the best and the worst arm.

        F1 = 2 TP / (2 TP + FP + FN), at IoU .5, crowds ignored

    Each arm uses its own :func:`best_threshold`, because scores of different losses are not
    comparable.

    Args:
        scores: arm -> F1 of its images, all of the same images.
        image_ids: (I,) ids of these images.
        count: maximum number of images.

    Returns:
        Image ids, most different first. Ties go to the image with more objects, then to the lower
        id. Images on which all arms are equal are left out.

    Raises:
        ValueError: there are no arms, or their ground truths differ.
    """
    arms = list(scores.values())
    if not arms:
        raise ValueError("scores must hold at least one arm, got none")
    first = arms[0]
    if not all(arm.digest == first.digest for arm in arms):
        raise ValueError("scores must be of the same images and annotations")
    difference = np.ptp([arm.f1 for arm in arms], axis=0)
    order = np.lexsort((-first.objects, -difference))
    return [image_ids[i] for i in order[:count] if difference[i] > 0]


def best_threshold(evaluation: Evaluation) -> float:
    """
    Return the score threshold with the largest F1 over the dataset, all classes together.

    Ties go to the highest threshold. It is infinite if no detection is correct.
    """
    score, _, right = _counted(evaluation)
    best = best_f1(score, right, int(evaluation.objects_per_class.sum()))
    return float("inf") if best is None else best.score


def image_f1(evaluation: Evaluation, threshold: float) -> np.ndarray:
    """
    Return the F1 of each image.

    Returns:
        (I,) F1 of the detections with a score >= threshold, at IoU .5; 1 for an image without
        objects and without detections.
    """
    score, image, right = _counted(evaluation)
    shown = score >= threshold
    images = len(evaluation.image_ids)
    detected = np.bincount(image[shown], minlength=images)
    correct = np.bincount(image[shown & right], minlength=images)
    both = detected + _objects(evaluation)
    return np.where(both > 0, 2 * correct / np.maximum(both, 1), 1.0)


def _objects(evaluation: Evaluation) -> np.ndarray:
    """Return (I,) the number of objects, without crowds."""
    found = np.zeros(len(evaluation.image_ids), int)
    for matches in evaluation.classes:
        found[matches.images] += matches.objects[0]
    return found


def _counted(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return score, image and correctness of all detections that count at IoU .5."""
    parts = [(np.zeros(0), np.zeros(0, int), np.zeros(0, bool))]
    for matches in evaluation.classes:
        keep = ~matches.ignored[0, 0]
        parts.append((matches.score[keep], matches.image[keep], matches.matched[0, 0, keep]))
    score, image, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    return score, image, right
