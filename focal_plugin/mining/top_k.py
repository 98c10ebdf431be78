"""Mining of the anchors of highest loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks import check_count
from ..registry import configurable
from .build import MINER_REGISTRY, Miner
from .inputs import check_inputs
from .selection import highest


@torch.no_grad()
def top_k_keep_mask(loss: Tensor, labels: Tensor, *, num_keep: int = 128) -> Tensor:
    """
    Keep the anchors of highest loss, without suppression of neighbors.

        keep = top num_keep by loss

    (R-FCN mines its RoIs in this way, arXiv:1605.06409.)

    Args:
        loss: (R,), any floating dtype; compared in float32.
        labels: (R,), integer, -1 for ignored anchors.
        num_keep: maximum number of anchors to keep, >= 1.

    Returns:
        bool (R,), False for every ignored anchor; all other anchors if there are fewer than
        num_keep.

    Raises:
        ValueError: an option is outside its legal range, or the shapes do not match.
    """
    labels = check_inputs(loss, labels)
    return highest(loss, labels != -1, check_count("num_keep", num_keep, low=1))


@MINER_REGISTRY.register()
class TopKMiner(Miner):
    """
    Miner that keeps the anchors of highest loss, without suppression of neighbors.

        keep = top num_keep by loss

    (R-FCN mines its RoIs in this way, arXiv:1605.06409. The options are those of
    :func:`top_k_keep_mask`, and those of :class:`Miner`.)

    Reported:
        none on COCO
    """

    config_keys = {**Miner.config_keys, "num_keep": "MODEL.FOCAL.MINING.NUM_KEEP"}

    @configurable
    def __init__(self, *, num_keep: int = 128, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_keep = check_count("num_keep", num_keep, low=1)

    def select(
        self, loss: Tensor, candidates: Tensor, positives: Tensor, *, num_images: int
    ) -> Tensor:
        return highest(loss, candidates, self.num_keep * num_images)
