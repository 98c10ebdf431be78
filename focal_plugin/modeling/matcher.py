"""
Which object each anchor belongs to, and which anchors belong to a crowd:
`MODEL.FOCAL.ANCHOR_LABELS`, and for proposals `MODEL.FOCAL.RPN`.

Shape shorthand:
    M: number of objects in an image
    R: anchors per image over all levels
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.structures.boxes import pairwise_ioa
from torch import Tensor

from ..checks import IllegalOptionError, check_choice
from ..registry import DENSE, Place

LOW_QUALITY = ("on", "clobber", "off")
"""What `MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY` may be."""


class AnchorMatcher(Matcher):
    """
    Same interface as :class:`detectron2.modeling.matcher.Matcher`, but with a choice of what
    becomes of an anchor that is the best one for some object (ties included), though its IoU is
    below the threshold of a positive:

        "on"       positive, whatever its IoU                                     (stock)
        "clobber"  positive, unless its own best IoU is below the lowest threshold
        "off"      labelled by its IoU, as any other

    "clobber" is what the original Detectron and tensorpack do, where the background label is
    written last (arXiv:1506.01497 section 3.1.2 is the rule itself).

    Note:
        An object that overlaps no anchor makes no anchor positive. In the stock matcher it does so
        for every anchor that overlaps no object: its best IoU is 0, and so is theirs.
    """

    def __init__(
        self, thresholds: list[float], labels: list[int], *, low_quality: str = "on"
    ) -> None:
        """
        Args:
            thresholds: ascending IoUs between the labels, > 0.
            labels: in {-1 (ignored), 0 (background), 1 (positive)}, one more than thresholds.
            low_quality: "on", "clobber" or "off".

        Raises:
            IllegalOptionError: ``low_quality`` is none of these.
        """
        check_choice("low_quality", low_quality, LOW_QUALITY)
        super().__init__(thresholds, labels, allow_low_quality_matches=low_quality != "off")
        self.low_quality = low_quality

    def set_low_quality_matches_(self, match_labels: Tensor, match_quality_matrix: Tensor) -> None:
        """
        Same interface as :meth:`Matcher.set_low_quality_matches_`: writes 1 into ``match_labels``.

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


def build_anchor_matcher(cfg: CfgNode, place: Place = DENSE) -> AnchorMatcher:
    """
    Build the matcher of `MODEL.RETINANET.{IOU_THRESHOLDS, IOU_LABELS}` and
    `MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY`.

    Args:
        place: where these are, if not there.

    Raises:
        ValueError: `LOW_QUALITY` is none of the legal values; the message names its full key.
    """
    low_quality = "MODEL.FOCAL.ANCHOR_LABELS.LOW_QUALITY"
    try:
        return AnchorMatcher(
            place.read(cfg, "MODEL.RETINANET.IOU_THRESHOLDS"),
            place.read(cfg, "MODEL.RETINANET.IOU_LABELS"),
            low_quality=place.read(cfg, low_quality),
        )
    except IllegalOptionError as error:
        raise ValueError(f"{place.key(low_quality)} {error.requirement}") from error


def split_crowds(instances: Instances) -> tuple[Instances, Boxes]:
    """
    Part an image's ground truth into objects and crowd regions, whose class is negative as the
    mapper in `focal_plugin.data` gives it.

    Args:
        instances: with gt_boxes, and gt_classes (M,); without these, all are objects.

    Returns:
        the objects, with all their fields and in their order, and the boxes of the crowds; either
        may be empty.
    """
    if not instances.has("gt_classes"):
        return instances, instances.gt_boxes[:0]
    is_crowd = instances.gt_classes < 0
    return instances[~is_crowd], instances.gt_boxes[is_crowd]


class CrowdRule(NamedTuple):
    """
    Which anchors a crowd region takes out of training.

    Attributes:
        overlap: (regions, anchors) -> (C, R): share of the anchor's area, or IoU.
        threshold: of the overlap.
        reached: what the overlap must do to the threshold.
        positives: anchors of objects too, not only those of the background.
    """

    overlap: Callable[[Boxes, Boxes], Tensor]
    threshold: float
    reached: Callable[[Tensor, float], Tensor] = operator.ge
    positives: bool = False

    def apply_(self, labels: Tensor, anchors: Boxes, crowds: Boxes, *, background: int) -> None:
        """
        Write -1 (ignored) into the labels of these anchors.

        Args:
            labels: (R,), changed in place.
            anchors: R boxes.
            crowds: C regions; there may be none.
            background: its label.
        """
        if len(crowds):
            taken = self.reached(self.overlap(crowds, anchors).amax(dim=0), self.threshold)
            labels[taken if self.positives else taken & (labels == background)] = -1


CROWD_RULES = {
    "background": None,
    "ignore": CrowdRule(pairwise_ioa, 0.7),
    "tensorpack": CrowdRule(pairwise_ioa, 9.99, reached=operator.gt, positives=True),
    "matterport": CrowdRule(pairwise_iou, 0.001),
}
"""
What `MODEL.FOCAL.RPN.CROWD` may be: crowds are not looked at; the rule by which Detectron drops
proposals; that of tensorpack, whose threshold switches it off; that of matterport, for which to
touch a crowd is nearly enough.
"""
