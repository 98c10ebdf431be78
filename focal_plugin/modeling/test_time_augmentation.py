"""
Detection on several sizes of an image and their mirror images, merged: `TEST.AUG`.

Detectron2 has it for R-CNN. Here is the same for RetinaNet, and the choice between both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    DatasetMapperTTA,
    GeneralizedRCNN,
    GeneralizedRCNNWithTTA,
    PanopticFPN,
    RetinaNet,
)
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..checks import check_option


def check_tta(cfg: CfgNode) -> None:
    """
    Raise an error if `TEST.AUG` is enabled, but cannot be applied to the detector of a config.

    Raises:
        ValueError: the detector, or a part of it, is not supported, or a size is not positive.
    """
    aug = cfg.TEST.AUG
    if not aug.ENABLED:
        return
    unsupported = {
        f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}": not _is_supported(cfg),
        "MODEL.KEYPOINT_ON": cfg.MODEL.KEYPOINT_ON,
        "MODEL.LOAD_PROPOSALS": cfg.MODEL.LOAD_PROPOSALS,
        "MODEL.PROPOSAL_GENERATOR.NAME RRPN": cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RRPN",
    }
    for key, found in unsupported.items():
        if found:
            raise ValueError(f"TEST.AUG.ENABLED does not support {key}: set it to False")
    if not aug.MIN_SIZES:
        raise ValueError("TEST.AUG.MIN_SIZES must have a size, got none")
    for size in aug.MIN_SIZES:
        check_option("TEST.AUG.MIN_SIZES", size, low=0, open_low=True)
    check_option("TEST.AUG.MAX_SIZE", aug.MAX_SIZE, low=0, open_low=True)


def build_tta(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """
    Return a module that detects like ``model``, but with the augmentations of `TEST.AUG`.

    Args:
        model: a RetinaNet or an R-CNN, which is not copied.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if isinstance(model, GeneralizedRCNN):
        augmented: nn.Module = GeneralizedRCNNWithTTA(cfg, model)
    else:
        augmented = RetinaNetWithTTA(
            model,
            DatasetMapperTTA(cfg),
            nms_thresh=cfg.MODEL.RETINANET.NMS_THRESH_TEST,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        )
    return augmented.train(model.training)


class RetinaNetWithTTA(nn.Module):
    """
    RetinaNet with test-time augmentation, like Detectron2's `GeneralizedRCNNWithTTA` for R-CNN.

    The detections of all augmented images are mapped to the original image. A non-maximum
    suppression within each class merges them. The interface is that of the detector.
    """

    def __init__(
        self,
        model: nn.Module,
        augment: Callable[[dict[str, Any]], list[dict[str, Any]]],
        *,
        nms_thresh: float,
        max_detections: int,
        batch_size: int = 3,
    ) -> None:
        """
        Initialize the module.

        Args:
            model: the detector.
            augment: returns the augmented versions of an input, such as a `DatasetMapperTTA`.
            nms_thresh: IoU above which the box of the lower score is suppressed.
            max_detections: maximum number of detections of an image.
            batch_size: number of augmented images that the detector receives at once.
        """
        super().__init__()
        self.model = model
        self.augment = augment
        self.nms_thresh = nms_thresh
        self.max_detections = max_detections
        self.batch_size = batch_size

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Detect objects, with the inputs and outputs of the detector in evaluation mode."""
        return [{"instances": self._detect(image)} for image in batched_inputs]

    def _detect(self, image: dict[str, Any]) -> Instances:
        height, width = image["image"].shape[1:]
        image = {"height": height, "width": width, **image}
        size = (image["height"], image["width"])
        found = Instances.cat(list(self._detect_augmented(image, size)))
        boxes = found.pred_boxes.tensor
        keep = batched_nms(boxes, found.scores, found.pred_classes, self.nms_thresh)
        return found[keep[: self.max_detections]]

    def _detect_augmented(
        self, image: dict[str, Any], size: tuple[int, int]
    ) -> Iterator[Instances]:
        """Yield the detections in each augmented image, in pixels of the original one."""
        augmented = self.augment(image)
        transforms = [x.pop("transforms") for x in augmented]
        for x in augmented:  # the detector's boxes then are those of its input
            x["height"], x["width"] = x["image"].shape[1:]
        outputs = []
        for first in range(0, len(augmented), self.batch_size):
            outputs += self.model(augmented[first : first + self.batch_size])
        for transform, output in zip(transforms, outputs, strict=True):
            found = output["instances"]
            boxes = Boxes(_inverse(transform, found.pred_boxes.tensor))
            boxes.clip(size)
            yield Instances(
                size, pred_boxes=boxes, scores=found.scores, pred_classes=found.pred_classes
            )


def _is_supported(cfg: CfgNode) -> bool:
    detector = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return issubclass(detector, GeneralizedRCNN | RetinaNet) and not issubclass(
        detector, PanopticFPN
    )


def _inverse(transform: Any, boxes: Tensor) -> Tensor:
    return torch.from_numpy(transform.inverse().apply_box(boxes.cpu().numpy())).to(boxes)
