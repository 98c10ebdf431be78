"""On which images arms differ most: those worth looking at."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .average_precision import Evaluation


def most_different_images(evaluations: Mapping[str, Evaluation], count: int) -> list[int]:
    """
    The images with the largest difference of F1 between the best and the worst arm.

        F1 = 2 TP / (2 TP + FP + FN), at IoU .5, crowds ignored

    Each arm counts its detections from its own :func:`best_threshold` on, as a score means
    something else after another loss.

    Args:
        evaluations: arm -> its detections, all of the same images.
        count: at most so many.

    Returns:
        Image ids, most different first, of equal ones that with the most objects, then by id;
        images on which all arms are alike are left out.

    Raises:
        ValueError: no arms, or of different ground truths.
    """
    arms = list(evaluations.values())
    if not arms:
        raise ValueError("evaluations must hold at least one arm, got none")
    if not all(arm.same_ground_truth_as(arms[0]) for arm in arms):
        raise ValueError("evaluations must be of the same images and annotations")
    scores = np.array([image_f1(arm, best_threshold(arm)) for arm in arms])
    difference = np.ptp(scores, axis=0)
    order = np.lexsort((-_objects(arms[0]), -difference))
    return [arms[0].image_ids[i] for i in order[:count] if difference[i] > 0]


def best_threshold(evaluation: Evaluation) -> float:
    """
    The score from which on the detections have the largest F1 over the whole data set, all classes
    together; the highest such score. Infinite if no detection is right.
    """
    score, _, right = _counted(evaluation)
    order = np.argsort(-score, kind="stable")
    score, right = score[order], np.cumsum(right[order])
    objects = evaluation.objects_per_class.sum()
    if not right.any():
        return float("inf")
    # F1 is known where the score falls: detections of one score are shown together
    last = np.append(score[1:] < score[:-1], True)
    f1 = 2 * right / (np.arange(1, len(score) + 1) + objects)
    return float(score[last][f1[last].argmax()])


def image_f1(evaluation: Evaluation, threshold: float) -> np.ndarray:
    """
    Returns:
        (I,) F1 of the detections with a score >= threshold, at IoU .5; 1 where there is nothing to
        find and nothing was detected.
    """
    score, image, right = _counted(evaluation)
    shown = score >= threshold
    images = len(evaluation.image_ids)
    detected = np.bincount(image[shown], minlength=images)
    correct = np.bincount(image[shown & right], minlength=images)
    both = detected + _objects(evaluation)
    return np.where(both > 0, 2 * correct / np.maximum(both, 1), 1.0)


def _objects(evaluation: Evaluation) -> np.ndarray:
    """(I,) without crowds."""
    per_class = [matches.objects[0] for matches in evaluation.classes]
    return np.sum([np.zeros(len(evaluation.image_ids), int), *per_class], axis=0)


def _counted(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, image and rightness of all detections that count at IoU .5."""
    parts = [(np.zeros(0), np.zeros(0, int), np.zeros(0, bool))]
    for matches in evaluation.classes:
        keep = ~matches.ignored[0, 0]
        parts.append((matches.score[keep], matches.image[keep], matches.matched[0, 0, keep]))
    score, image, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    return score, image, right
