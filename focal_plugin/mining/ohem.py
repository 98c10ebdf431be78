"""
Online hard example mining on dense anchors: suppression by loss, then a cut by loss.

arXiv:1708.02002 section 5.1 does not specify these choices. The keys are in `MODEL.FOCAL.MINING`,
and these are the defaults:

    scope of NUM_KEEP                       each image (SCOPE)
    boxes of the suppression                decoded from the predicted deltas (NMS_BOXES)
    suppression across labels               yes (NMS_PER_LABEL); arXiv:1604.03540 suppresses RoIs
                                            within each label
    loss to rank by                         the classification loss (RANK_BY)
    anchors of the box loss                 all positives (BOX_LOSS_ON)
    divisor of the classification loss      that of all other losses (DIVIDE_BY)
    1:3 with too few or no positives        fewer anchors; EMPTY_IMAGE_NEGATIVES anchors
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import check_choice, check_count, check_option
from ..registry import configurable
from .build import MINER_REGISTRY, Miner, RatioMiner
from .inputs import BoxesOf, check_inputs, check_num_classes
from .quota import Quota, RatioQuota, TotalQuota
from .selection import positive_mask
from .suppression import Anchors, Suppression


@torch.no_grad()
def ohem_keep_mask(
    loss: Tensor,
    labels: Tensor,
    boxes: Tensor | None,
    *,
    num_keep: int = 128,
    nms_thresh: float = 0.5,
    pre_nms_topk: int = 0,
    neg_pos_ratio: float | None = None,
    num_classes: int | None = None,
    empty_image_negatives: int = 3,
    nms_per_label: bool = False,
) -> Tensor:
    """
    Keep the anchors of highest loss that no neighbor of higher loss suppresses.

        keep = top num_keep by loss of NMS(boxes, score = loss)

    (OHEM, arXiv:1604.03540, on dense anchors: arXiv:1708.02002 section 5.1; the defaults are the
    best row of its Table 1d.) With a ratio it is the variant "OHEM 1:3", on the survivors:

        keep = top max(1, floor(num_keep / (1 + ratio))) of the positives by loss
             + top floor(ratio * positives kept) of the negatives by loss

    Args:
        loss: (R,), any floating dtype; compared in float32.
        labels: (R,), integer in {-1 (ignored), 0..K-1, K (background)}.
        boxes: (R, 4), XYXY, of the anchors. None disables the suppression and `pre_nms_topk`.
        num_keep: maximum number of anchors to keep, >= 1.
        nms_thresh: IoU above which the anchor of lower loss is suppressed, in [0, 1]; 1 suppresses
            none.
        pre_nms_topk: number of anchors of highest loss that enter the suppression, >= 0; no other
            anchor is kept. 0: all enter.
        neg_pos_ratio: negatives per positive, > 0. None: positives and negatives compete.
        num_classes: K, used with a ratio only. None means that the largest label present is the
            background, which is correct if there is a background anchor. Otherwise, the positives
            of that label are mined as negatives.
        empty_image_negatives: negatives kept with a ratio if no positive survives, >= 0, at most
            num_keep. The image may have objects.
        nms_per_label: if True, only an anchor of the same label suppresses; background is one
            label.

    Returns:
        bool (R,), at most num_keep True, False for every ignored anchor.

    Raises:
        ValueError: an option is outside its legal range, or the shapes do not match.

    Note:
        The suppression goes from high to low loss, and stops as soon as later anchors cannot be
        kept. So the result is exact, and the cost hardly depends on R.

        With the anchors themselves as boxes, the IoU of neighbors at one stride is .60, .67 and .73
        for the scales 1, 2^(1/3) and 2^(2/3). The IoU of adjacent scales at one location is .63. A
        threshold of .5 therefore removes all of them, and a threshold of .7 removes few.
    """
    labels = check_inputs(loss, labels, boxes, num_classes=check_num_classes(num_classes))
    num_keep = check_count("num_keep", num_keep, low=1)
    nms_thresh = check_option("nms_thresh", nms_thresh, low=0, high=1)
    pre_nms_topk = check_count("pre_nms_topk", pre_nms_topk, low=0)
    empty_image_negatives = check_count("empty_image_negatives", empty_image_negatives, low=0)
    quota: Quota = TotalQuota(num_keep)
    if neg_pos_ratio is not None:
        neg_pos_ratio = check_option("neg_pos_ratio", neg_pos_ratio, low=0, open_low=True)
        quota = RatioQuota(num_keep, neg_pos_ratio, empty_image_negatives)
    positives = positive_mask(labels, num_classes=num_classes)
    candidates = labels != -1
    if boxes is not None:
        boxes_of_image = boxes.unsqueeze(0)
        anchors = Anchors(
            loss.unsqueeze(0),
            labels.unsqueeze(0),
            positives.unsqueeze(0),
            lambda image, anchor: boxes_of_image[image, anchor],
        )
        suppression = Suppression(nms_thresh, pre_nms_topk, nms_per_label)
        candidates = suppression.survivors(anchors, quota, per_batch=False)[0]
    return quota.fill(loss, candidates, positives)


@MINER_REGISTRY.register()
class OHEMMiner(Miner):
    """
    Miner that keeps the anchors of highest loss that no neighbor of higher loss suppresses.

        keep = top num_keep by loss of NMS(boxes, score = loss)

    (OHEM on dense anchors: arXiv:1708.02002 section 5.1 and Table 1d; on RoIs: arXiv:1604.03540.
    The options are those of :func:`ohem_keep_mask` without a ratio, and those of :class:`Miner`.
    The docstring of this file lists the choices that the paper does not specify.)

    Attributes:
        nms_boxes: the boxes that it receives: "decoded" from the predicted deltas, or the
            "anchors".

    Reported:
        RetinaNet R-101-FPN, 600 px, COCO: 32.8 AP; focal loss has 36.0 (Table 1d)
    """

    needs_boxes: ClassVar[bool] = True
    stops_at_quota: ClassVar[bool] = True
    """False if the suppression must find all survivors, for a :meth:`select` of a subclass."""

    config_keys = {
        **Miner.config_keys,
        "num_keep": "MODEL.FOCAL.MINING.NUM_KEEP",
        "nms_thresh": "MODEL.FOCAL.MINING.NMS_THRESH",
        "pre_nms_topk": "MODEL.FOCAL.MINING.PRE_NMS_TOPK",
        "nms_boxes": "MODEL.FOCAL.MINING.NMS_BOXES",
        "nms_per_label": "MODEL.FOCAL.MINING.NMS_PER_LABEL",
    }

    @configurable
    def __init__(
        self,
        *,
        num_keep: int = 128,
        nms_thresh: float = 0.5,
        pre_nms_topk: int = 0,
        nms_boxes: str = "decoded",
        nms_per_label: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_keep = check_count("num_keep", num_keep, low=1)
        self.nms_thresh = check_option("nms_thresh", nms_thresh, low=0, high=1)
        self.pre_nms_topk = check_count("pre_nms_topk", pre_nms_topk, low=0)
        self.nms_boxes = check_choice("nms_boxes", nms_boxes, ("decoded", "anchors"))
        self.nms_per_label = nms_per_label

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give a subclass all survivors if its :meth:`select` may not be that of :meth:`quota`."""
        super().__init_subclass__(**kwargs)
        if "select" in vars(cls):
            cls.stops_at_quota = "quota" in vars(cls)

    def candidates(self, loss: Tensor, labels: Tensor, boxes: BoxesOf | None) -> Tensor:
        """Select the survivors of highest loss, from the arguments of :meth:`Miner.candidates`."""
        assert boxes is not None  # this miner requires them
        positives = positive_mask(labels, num_classes=self.num_classes)
        per_batch = self.scope == "batch"
        quota = self.quota(len(labels) if per_batch else 1) if self.stops_at_quota else None
        suppression = Suppression(self.nms_thresh, self.pre_nms_topk, self.nms_per_label)
        return suppression.survivors(
            Anchors(loss, labels, positives, boxes), quota, per_batch=per_batch
        )

    def quota(self, num_images: int) -> Quota:
        """Return the quota that :meth:`select` fills, and at which the suppression stops."""
        return TotalQuota(self.num_keep * num_images)

    def select(
        self, loss: Tensor, candidates: Tensor, positives: Tensor, *, num_images: int
    ) -> Tensor:
        return self.quota(num_images).fill(loss, candidates, positives)


@MINER_REGISTRY.register()
class OHEMRatioMiner(RatioMiner, OHEMMiner):
    """
    Miner like :class:`OHEMMiner`, with a ratio of negatives to positives among the survivors.

        keep = top max(1, floor(num_keep / (1 + ratio))) of the positives by loss
             + top floor(ratio * positives kept) of the negatives by loss

    (The variant "OHEM 1:3" of arXiv:1708.02002 section 5.1: suppression among all, then the ratio.
    The options are those of :func:`ohem_keep_mask`, and those of :class:`OHEMMiner`.)

    If no positive survives, it keeps `empty_image_negatives` negatives, even if the image has
    objects. The paper does not describe this case.

    Reported:
        RetinaNet R-101-FPN, 600 px, COCO: 31.1 AP; focal loss has 36.0 (Table 1d)
    """

    config_keys = {**OHEMMiner.config_keys, **RatioMiner.config_keys}

    def quota(self, num_images: int) -> Quota:
        return RatioQuota(
            self.num_keep * num_images,
            self.neg_pos_ratio,
            self.empty_image_negatives * num_images,
        )
