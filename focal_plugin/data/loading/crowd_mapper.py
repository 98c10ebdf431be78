"""
Dataset mapper that keeps crowd regions and the labeled classes in the training data.

COCO marks a region with too many objects to box as one annotation with `iscrowd`. Detectron2 drops
it, so that anchors in it count as background. That label is wrong and its loss is high, and
loss-based mining selects exactly such anchors.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.data import DatasetMapper

from ..labeled_categories import LABELED_CLASSES
from .labeled_classes import LabeledClasses

CROWD_LABEL = -1
"""Label of a crowd region in `gt_classes`, the same as for "ignored"; no class is negative."""


class CrowdDatasetMapper(DatasetMapper):
    """
    Mapper that adds crowd regions and the labeled classes to the training instances.

    It has the interface of :class:`detectron2.data.DatasetMapper`. In training, the instances also
    contain the boxes of crowd regions, with the class :data:`CROWD_LABEL`. The instances of a
    partly labeled image have a field `labeled_classes`, a
    :class:`~focal_plugin.data.loading.labeled_classes.LabeledClasses`. The images and the random
    draws do not change.

    Use it only for detectors that handle a negative class. If masks or keypoints are loaded, which
    crowd regions do not have, crowd regions are dropped as in the parent.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        boxes_only = not (self.use_instance_mask or self.use_keypoint)
        if self.is_train and boxes_only and "annotations" in dataset_dict:
            annotations = [_keep_crowd(x) for x in dataset_dict["annotations"]]
            dataset_dict = {**dataset_dict, "annotations": annotations}
        labeled = dataset_dict.get(LABELED_CLASSES)
        mapped: dict[str, Any] = super().__call__(dataset_dict)
        if labeled is not None and "instances" in mapped:
            instances, classes = mapped["instances"], torch.tensor(labeled, dtype=torch.int64)
            instances.labeled_classes = LabeledClasses(classes, len(instances))
        return mapped


def _keep_crowd(annotation: dict[str, Any]) -> dict[str, Any]:
    """Return a crowd region as an object of class CROWD_LABEL, and other annotations unchanged."""
    if not annotation.get("iscrowd", 0):
        return annotation
    return {**annotation, "iscrowd": 0, "category_id": CROWD_LABEL}
