"""
Crowd regions in the training data.

COCO marks a region of many objects, too many to box each, as one annotation with `iscrowd`.
Detectron2 drops it, so that what lies in it counts as background: wrongly, and hard to get right,
which is what mining by loss looks for.
"""

from __future__ import annotations

from typing import Any

from detectron2.data import DatasetMapper

CROWD_LABEL = -1
"""`gt_classes` of a crowd region: that of "ignored"; no class is negative."""


class CrowdDatasetMapper(DatasetMapper):
    """
    Same interface as :class:`detectron2.data.DatasetMapper`, but in training the instances hold
    the boxes of crowd regions too, with the class :data:`CROWD_LABEL`, among the objects. The
    images, and the draws of the random generator, are the same.

    Only for detectors that know what a negative class means. Where masks or keypoints are loaded,
    which crowds have not, they are dropped as in the parent.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        boxes_only = not (self.use_instance_mask or self.use_keypoint)
        if self.is_train and boxes_only and "annotations" in dataset_dict:
            annotations = [_keep_crowd(x) for x in dataset_dict["annotations"]]
            dataset_dict = {**dataset_dict, "annotations": annotations}
        return super().__call__(dataset_dict)


def _keep_crowd(annotation: dict[str, Any]) -> dict[str, Any]:
    """A crowd as an object of the class CROWD_LABEL; anything else as it is."""
    if not annotation.get("iscrowd", 0):
        return annotation
    return {**annotation, "iscrowd": 0, "category_id": CROWD_LABEL}
