"""
Matching of anchors with objects and with crowd regions.

The keys are in `MODEL.FOCAL.ANCHOR_LABELS`, and for proposals in `MODEL.FOCAL.RPN`.

Shape shorthand:
    N: number of images
    M: number of objects in an image
    C: number of crowd regions in an image
    R: anchors per image over all levels
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.structures.boxes import pairwise_ioa
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor

from ..checks import IllegalOptionError, check_choice
from ..ops.match_anchors import LOW_QUALITY, match_anchors
from ..registry import DENSE, ConfigScope

CROWDS_AT_ONCE = 8
"""Number of crowd regions whose overlaps with all anchors are in memory at the same time."""


class AnchorMatcher(Matcher):
    """
    Detectron2's `Matcher` with a choice of low-quality matches.

    The choice applies to the best anchors of an object (ties included) whose IoU is below the
    threshold of a positive:

        "on"       positive, whatever its IoU                                     (stock)
        "clobber"  positive, unless its own best IoU is below the lowest threshold
        "off"      labeled by its IoU, like any other anchor

    "clobber" is the behavior of the original Detectron and of tensorpack, which write the
    background label last. The rule itself is in arXiv:1506.01497 section 3.1.2.

    Note:
        An object that overlaps no anchor makes no anchor positive. In the stock matcher, it makes
        every anchor positive that overlaps no object, because both best IoUs are 0.
    """

    def __init__(
        self, thresholds: list[float], labels: list[int], *, low_quality: str = "on"
    ) -> None:
        """
        Initialize the matcher.

        Args:
            thresholds: ascending IoUs between the labels, > 0.
            labels: in {-1 (ignored), 0 (background), 1 (positive)}, one more than thresholds.
            low_quality: "on", "clobber" or "off".

        Raises:
            IllegalOptionError: ``low_quality`` has another value.
        """
        check_choice("low_quality", low_quality, LOW_QUALITY)
        super().__init__(thresholds, labels, allow_low_quality_matches=low_quality != "off")
        self.low_quality = low_quality

    def set_low_quality_matches_(self, match_labels: Tensor, match_quality_matrix: Tensor) -> None:
        """
        Write 1 into ``match_labels``, see :meth:`Matcher.set_low_quality_matches_`.

        Args:
            match_labels: (R,), int8, changed in place.
            match_quality_matrix: (M, R), IoU of each object with each anchor.
        """
        best = match_quality_matrix.amax(dim=1, keepdim=True)  # (M, 1)
        is_best = (match_quality_matrix == best) & (best > 0)
        rescued = is_best.any(dim=0)  # (R,)
        if self.low_quality == "clobber":
            # thresholds[0] is -inf
            rescued &= match_quality_matrix.amax(dim=0) >= self.thresholds[1]
        match_labels[rescued] = 1

    def match_boxes(self, gt_boxes: list[Boxes], anchors: Boxes) -> tuple[Tensor, Tensor]:
        """
        Match the anchors of each image with its objects, without the matrix of IoUs.

        The result is that of calling the matcher with the `pairwise_iou` of each image, bit for
        bit, see :func:`~focal_plugin.ops.match_anchors.match_anchors`.

        Args:
            gt_boxes: one per image, M boxes.
            anchors: R boxes.

        Returns:
            the index of each anchor's object, (N, R), int64, and the anchor's label, (N, R), int8.
        """
        return match_anchors(
            [boxes.tensor for boxes in gt_boxes],
            anchors.tensor,
            thresholds=self.thresholds[1:-1],  # without the infinities that stock adds
            labels=self.labels,
            low_quality=self.low_quality,
        )


def build_anchor_matcher(cfg: CfgNode, config_scope: ConfigScope = DENSE) -> AnchorMatcher:
    """
    Build the matcher that a config describes.

    It reads `MODEL.RETINANET.{IOU_THRESHOLDS, IOU_LABELS}` and
    `MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY`.

    Args:
        config_scope: the location of these keys, if they are moved.

    Raises:
        ValueError: `LOW_QUALITY` has an illegal value; the message names its full key.
    """
    low_quality = "MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY"
    try:
        return AnchorMatcher(
            config_scope.read(cfg, "MODEL.RETINANET.IOU_THRESHOLDS"),
            config_scope.read(cfg, "MODEL.RETINANET.IOU_LABELS"),
            low_quality=config_scope.read(cfg, low_quality),
        )
    except IllegalOptionError as error:
        raise ValueError(f"{config_scope.key(low_quality)} {error.requirement}") from error


def split_crowds(instances: Instances) -> tuple[Instances, Boxes]:
    """
    Split an image's ground truth into objects and crowd regions.

    A crowd region has a negative class, which the mapper in `focal_plugin.data` sets.

    Args:
        instances: instances with gt_boxes and gt_classes (M,). Without classes, all are objects.

    Returns:
        the objects with all their fields and in their order, and the boxes of the crowds. Either
        may be empty.
    """
    if not instances.has("gt_classes"):
        return instances, instances.gt_boxes[:0]
    is_crowd = instances.gt_classes < 0
    return instances[~is_crowd], instances.gt_boxes[is_crowd]


def void_crowds(instances: Instances) -> tuple[Instances, Boxes]:
    """
    Split like :func:`split_crowds`, but without synchronization with a GPU.

    The number of objects and of crowds stays unknown. An empty box, which has no overlap, replaces
    each box that is taken out.

    Returns:
        the objects and the boxes of the crowds. The objects have boxes and classes only. They keep
        their order and are followed by an empty box of a negative class per crowd. The boxes of the
        crowds include an empty box per object.
    """
    if not instances.has("gt_classes"):
        return instances, instances.gt_boxes[:0]
    boxes, classes = instances.gt_boxes.tensor, instances.gt_classes
    is_crowd = (classes < 0).unsqueeze(1)
    order = torch.sort((classes < 0).byte(), stable=True).indices
    objects = Instances(
        instances.image_size,
        gt_boxes=Boxes(boxes.masked_fill(is_crowd, 0)[order]),
        gt_classes=classes[order],
    )
    return objects, Boxes(boxes.masked_fill(~is_crowd, 0))


class Match(NamedTuple):
    """
    Match of the anchors in one image.

    Attributes:
        idxs: (R,), int64, index of an object.
        labels: (R,), int8 in {-1 (ignored), 0 (background), 1 (positive)}.
        objects: the objects of the image, without crowds.
        crowds: C regions.
        target: (R,), in [0, 1], soft target and weight of each positive; None: 1 each.
    """

    idxs: Tensor
    labels: Tensor
    objects: Instances
    crowds: Boxes
    target: Tensor | None = None

    @property
    def boxes(self) -> Tensor:
        """Box of each anchor's object, (R, 4); 0 in an image without objects."""
        return self._of_objects(self.objects.gt_boxes.tensor, nothing=0)

    @property
    def classes(self) -> Tensor:
        """Class of each anchor's object, (R,); negative in an image without objects."""
        return self._of_objects(self.objects.gt_classes, nothing=-1)

    @property
    def num_unassigned(self) -> Tensor:
        """Number of objects without a positive anchor, an int64 scalar."""
        nobody = len(self.objects)
        has_anchor = torch.zeros(nobody + 1, dtype=torch.bool, device=self.idxs.device)
        has_anchor[self.idxs.masked_fill(self.labels != 1, nobody)] = True
        missing = ~has_anchor[:-1]
        if self.objects.has("gt_classes"):
            missing &= self.objects.gt_classes >= 0  # no void box
        return missing.sum()

    def _of_objects(self, values: Tensor, *, nothing: int) -> Tensor:
        """Index a table with an extra row, because index 0 is in use without objects too."""
        rows = torch.cat([values, values.new_full((1, *values.shape[1:]), nothing)])
        return rows.index_select(0, self.idxs)


def match_images(
    matcher: Matcher, anchors: Boxes, gt_instances: list[Instances]
) -> Iterator[Match]:
    """
    Match the anchors of each image with its objects, but with no crowd region.

    It uses :meth:`AnchorMatcher.match_boxes`, which does not synchronize with a GPU. For another
    type of matcher or of boxes, it uses the matrix of all IoUs.

    Args:
        anchors: R boxes, the same for all images.
        gt_instances: one per image, with gt_boxes and optional gt_classes.
    """
    kinds = {type(boxes) for boxes in [anchors, *(x.gt_boxes for x in gt_instances)]}
    in_one_pass = matcher if type(matcher) is AnchorMatcher and kinds == {Boxes} else None
    part = void_crowds if in_one_pass and anchors.device.type != "cpu" else split_crowds
    parts = [part(instances) for instances in gt_instances]
    gt_boxes = [objects.gt_boxes for objects, _ in parts]
    matches: Iterable[tuple[Tensor, Tensor]]
    if in_one_pass:
        matches = zip(*in_one_pass.match_boxes(gt_boxes, anchors), strict=True)
    else:
        matches = (_match_by_matrix(matcher, boxes, anchors) for boxes in gt_boxes)
    for (idxs, labels), (objects, crowds) in zip(matches, parts, strict=True):
        yield Match(idxs, labels, objects, crowds)


def _match_by_matrix(matcher: Matcher, gt_boxes: Boxes, anchors: Boxes) -> tuple[Tensor, Tensor]:
    """Match like stock's RPN, on the CPU if the GPU runs out of memory."""
    ious = retry_if_cuda_oom(pairwise_iou)(gt_boxes, anchors)
    idxs, labels = retry_if_cuda_oom(matcher)(ious)
    return idxs.to(anchors.device), labels.to(anchors.device)


class CrowdRule(NamedTuple):
    """
    Rule that excludes the anchors of a crowd region from training.

    Attributes:
        overlap: (regions, anchors) -> (C, R): share of the anchor's area, or IoU.
        threshold: threshold of the overlap.
        reached: comparison of the overlap with the threshold.
        positives: if True, the rule applies to anchors of objects and of the background. Otherwise
            it applies to the background only.
    """

    overlap: Callable[[Boxes, Boxes], Tensor]
    threshold: float
    reached: Callable[[Tensor, float], Tensor] = operator.ge
    positives: bool = False

    def apply_(self, labels: Tensor, anchors: Boxes, crowds: Boxes, *, background: int) -> None:
        """
        Write -1 (ignored) into the labels of the excluded anchors.

        Args:
            labels: (R,), changed in place.
            anchors: R boxes.
            crowds: C regions; there may be none.
            background: the label of the background.
        """
        if len(crowds):
            overlap = labels.new_zeros(len(anchors), dtype=torch.float32)
            for some in crowds.tensor.split(CROWDS_AT_ONCE):
                overlap = overlap.maximum(self.overlap(Boxes(some), anchors).amax(dim=0))
            taken = self.reached(overlap, self.threshold)
            labels.masked_fill_(taken if self.positives else taken & (labels == background), -1)


IGNORED_CROWDS = CrowdRule(pairwise_ioa, 0.7)
"""Rule by which Detectron drops proposals."""

CROWD_RULES: dict[str, CrowdRule | None] = {
    "background": None,
    "ignore": IGNORED_CROWDS,
    "tensorpack": CrowdRule(pairwise_ioa, 9.99, reached=operator.gt, positives=True),
    "matterport": CrowdRule(pairwise_iou, 0.001),
}
"""
Legal values of `MODEL.FOCAL.RPN.CROWD`. "background" does not look at crowds. "ignore" is the rule
by which Detectron drops proposals. "tensorpack" has a threshold that disables the rule.
"matterport" has a threshold that a small overlap with a crowd reaches.
"""
