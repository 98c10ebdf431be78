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

import functools
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import check_choice, check_count, check_option
from ..registry import configurable
from .build import MINER_REGISTRY, BoxesOf, Miner, RatioMiner
from .inputs import check_inputs, check_num_classes
from .selection import highest, positive_mask, survivors_of_nms, with_hard_negatives


@torch.no_grad()
def ohem_keep_mask(
    loss: Tensor,
    labels: Tensor,
    boxes: Tensor | None,
    *,
    num_keep: int = 128,
    nms_thresh: float = 0.5,
    pre_nms_topk: int = 4096,
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
        pre_nms_topk: number of anchors of highest loss that enter the suppression, >= 1; no other
            anchor is kept. The cost is quadratic: 5 GB for 200,000 anchors.
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
        With the anchors themselves as boxes, the IoU of neighbors at one stride is .60, .67 and .73
        for the scales 1, 2^(1/3) and 2^(2/3). The IoU of adjacent scales at one location is .63. A
        threshold of .5 therefore removes all of them, and a threshold of .7 removes few.
    """
    labels = check_inputs(loss, labels, boxes, num_classes=check_num_classes(num_classes))
    num_keep = check_count("num_keep", num_keep, low=1)
    nms_thresh = check_option("nms_thresh", nms_thresh, low=0, high=1)
    pre_nms_topk = check_count("pre_nms_topk", pre_nms_topk, low=1)
    empty_image_negatives = check_count("empty_image_negatives", empty_image_negatives, low=0)
    candidates = labels != -1
    if boxes is not None:
        candidates = survivors_of_nms(
            loss,
            labels,
            boxes.__getitem__,
            nms_thresh=nms_thresh,
            pre_nms_topk=pre_nms_topk,
            nms_per_label=nms_per_label,
        )
    if neg_pos_ratio is None:
        return highest(loss, candidates, num_keep)
    return _keep_at_ratio(
        loss,
        candidates,
        positive_mask(labels, num_classes=num_classes),
        num_keep=num_keep,
        neg_pos_ratio=check_option("neg_pos_ratio", neg_pos_ratio, low=0, open_low=True),
        empty_image_negatives=empty_image_negatives,
    )


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
        pre_nms_topk: int = 4096,
        nms_boxes: str = "decoded",
        nms_per_label: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_keep = check_count("num_keep", num_keep, low=1)
        self.nms_thresh = check_option("nms_thresh", nms_thresh, low=0, high=1)
        self.pre_nms_topk = check_count("pre_nms_topk", pre_nms_topk, low=1)
        self.nms_boxes = check_choice("nms_boxes", nms_boxes, ("decoded", "anchors"))
        self.nms_per_label = nms_per_label

    def candidates(self, loss: Tensor, labels: Tensor, boxes: BoxesOf | None) -> Tensor:
        """Select the survivors of each image, from the arguments of :meth:`Miner.candidates`."""
        assert boxes is not None  # this miner requires them
        survivors = torch.zeros_like(labels, dtype=torch.bool)
        for image in range(len(labels)):
            survivors[image] = survivors_of_nms(
                loss[image],
                labels[image],
                functools.partial(boxes, image),
                nms_thresh=self.nms_thresh,
                pre_nms_topk=self.pre_nms_topk,
                nms_per_label=self.nms_per_label,
            )
        return survivors

    def select(
        self, loss: Tensor, candidates: Tensor, positives: Tensor, *, num_images: int
    ) -> Tensor:
        return highest(loss, candidates, self.num_keep * num_images)


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

    def select(
        self, loss: Tensor, candidates: Tensor, positives: Tensor, *, num_images: int
    ) -> Tensor:
        return _keep_at_ratio(
            loss,
            candidates,
            positives,
            num_keep=self.num_keep * num_images,
            neg_pos_ratio=self.neg_pos_ratio,
            empty_image_negatives=self.empty_image_negatives * num_images,
        )


def _keep_at_ratio(
    loss: Tensor,
    candidates: Tensor,
    positives: Tensor,
    *,
    num_keep: int,
    neg_pos_ratio: float,
    empty_image_negatives: int,
) -> Tensor:
    max_pos = max(1, int(num_keep / (1 + neg_pos_ratio)))
    return with_hard_negatives(
        loss,
        highest(loss, candidates & positives, max_pos),
        candidates & ~positives,
        neg_pos_ratio=neg_pos_ratio,
        empty_image_negatives=empty_image_negatives,
        num_keep=num_keep,
    )
