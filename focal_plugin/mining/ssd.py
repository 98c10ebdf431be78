"""Hard negative mining of SSD: all positives, and a multiple of their number of negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_count, check_option
from .build import MINER_REGISTRY, RatioMiner
from .inputs import check_inputs, check_num_classes
from .selection import positive_mask, with_hard_negatives


@torch.no_grad()
def ssd_keep_mask(
    loss: Tensor,
    labels: Tensor,
    *,
    num_classes: int | None = None,
    neg_pos_ratio: float = 3.0,
    empty_image_negatives: int = 3,
) -> Tensor:
    """
    Keep all positives of an image, and the negatives of highest loss in a fixed ratio.

        keep = positives + top int(neg_pos_ratio * num_pos) of the negatives by loss

    (arXiv:1512.02325 section 2.2.)

    Args:
        loss: (R,), any floating dtype; compared in float32. SSD ranks by the classification loss.
        labels: (R,), integer in {-1 (ignored), 0..K-1, K (background)}.
        num_classes: K. None means that the largest label present is the background, which is
            correct if there is a background anchor. Otherwise, the positives of that label are
            mined as negatives.
        neg_pos_ratio: negatives per positive, > 0.
        empty_image_negatives: negatives kept if there is no positive, >= 0. SSD and its
            reimplementations keep none, so that an image without objects contributes nothing.

    Returns:
        bool (R,), False for every ignored anchor.

    Raises:
        ValueError: an option is outside its legal range, or the shapes do not match.
    """
    labels = check_inputs(loss, labels, num_classes=check_num_classes(num_classes))
    positives = positive_mask(labels, num_classes=num_classes)
    return with_hard_negatives(
        loss,
        positives,
        (labels != -1) & ~positives,
        neg_pos_ratio=check_option("neg_pos_ratio", neg_pos_ratio, low=0, open_low=True),
        empty_image_negatives=check_count("empty_image_negatives", empty_image_negatives, low=0),
        num_keep=len(loss),
    )


@MINER_REGISTRY.register()
class SSDMiner(RatioMiner):
    """
    Miner that keeps all positives, and the negatives of highest loss in a fixed ratio.

        keep = positives + top int(neg_pos_ratio * num_pos) of the negatives by loss

    (arXiv:1512.02325 section 2.2. The options are those of :func:`ssd_keep_mask`, and those of
    :class:`~focal_plugin.mining.build.RatioMiner`.)

    Reported:
        none on COCO
    """

    def select(
        self, loss: Tensor, candidates: Tensor, positives: Tensor, *, num_images: int
    ) -> Tensor:
        return with_hard_negatives(
            loss,
            positives,
            candidates & ~positives,
            neg_pos_ratio=self.neg_pos_ratio,
            empty_image_negatives=self.empty_image_negatives * num_images,
            num_keep=len(loss),
        )
