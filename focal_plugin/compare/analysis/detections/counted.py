"""Detections of a run that count at IoU .5, with the object and the IoU of each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .average_precision import Evaluation
from .match_boxes import paired_iou


@dataclass(frozen=True, eq=False)
class CountedDetections:
    """
    The M detections of a run that count at IoU .5, for K classes and I images.

    Detections in crowds are left out, and those beyond the 100 best of their class and image. The
    order is by class, then by score, highest first.

    Attributes:
        detection: (M,) index into the detections of the run.
        category: (M,) index of the class.
        image: (M,) index of the image.
        score: (M,) score.
        object: (M,) index of the object that the detection finds; -1 for a false detection.
        iou: (M,) IoU with this object; 0 for a false detection.
        object_category: (G,) class of each object, without crowds.
        object_image: (G,) image of each object, without crowds.
        classes: K.
        images: I.
    """

    detection: np.ndarray
    category: np.ndarray
    image: np.ndarray
    score: np.ndarray
    object: np.ndarray
    iou: np.ndarray
    object_category: np.ndarray
    object_image: np.ndarray
    classes: int
    images: int

    @property
    def right(self) -> np.ndarray:
        """(M,) True for detections that find an object."""
        return self.object >= 0

    @property
    def objects(self) -> np.ndarray:
        """(K,) number of objects of each class."""
        return np.bincount(self.object_category, minlength=self.classes)

    @property
    def of_class(self) -> list[slice]:
        """The detections of each class."""
        bounds = np.searchsorted(self.category, np.arange(self.classes + 1)).tolist()
        return [slice(*ends) for ends in pairwise(bounds)]


def counted_detections(evaluation: Evaluation) -> CountedDetections:
    """Return the detections that count at IoU .5."""
    truth, detections = evaluation.ground_truth, evaluation.detections
    nothing = np.zeros(0, dtype=int)
    index, found = [nothing], [nothing]
    for matches in evaluation.classes:
        keep = ~matches.ignored[0, 0]
        index.append(matches.detection[keep])
        of_object = np.where(matches.matched[0, 0, keep], matches.found[keep], -1)
        found.append(of_object.astype(np.int32))
    rows, objects = np.concatenate(index), np.concatenate(found)
    right = objects >= 0
    iou = np.zeros(len(rows))
    iou[right] = paired_iou(detections.box[rows[right]], truth.box[objects[right]])
    return CountedDetections(
        detection=rows,
        category=detections.category[rows],
        image=detections.image[rows],
        score=detections.score[rows],
        object=objects,
        iou=iou,
        object_category=truth.category[~truth.crowd],
        object_image=truth.image[~truth.crowd],
        classes=len(truth.category_ids),
        images=len(truth.image_ids),
    )
