"""
Weights of the box losses: `MODEL.FOCAL.BOX_LOSS.WEIGHTED_BY`, and its forms for RPN and RoI heads.

Shape shorthand:
    V: positive anchors, or RoIs with an object
    K: number of classes
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import IllegalOptionError
from ..losses import BoxLoss, ClassificationLoss
from ..losses.base import require_rows
from ..losses.processes import mean_over_processes


def check_box_weights(
    weighted_by: str, cls_loss: ClassificationLoss | None, box_loss: BoxLoss
) -> None:
    """
    Check that the losses work with weights of boxes, or need none.

    Args:
        weighted_by: the weight of each box; "" is 1.
        cls_loss: None: stock's own.

    Raises:
        ValueError: the box loss is a sum only or is already normalized, and its boxes are weighted;
            or ``cls_loss`` weighs the boxes itself.
    """
    weighs = cls_loss is not None and cls_loss.needs_box_loss
    if not (weighted_by or weighs):
        return
    require_rows(box_loss)
    if box_loss.own_normalizer:
        raise IllegalOptionError(
            "weighted_by", f"must be empty, because {type(box_loss).__name__} is already normalized"
        )
    if weighted_by and weighs:
        raise IllegalOptionError(
            "weighted_by",
            f"must be empty, because {type(cls_loss).__name__} weighs the boxes itself",
        )


def scores_of(cls_loss: ClassificationLoss, logits: Tensor) -> Tensor:
    """
    Return the largest probability of a class, float32 (V,).

    Args:
        logits: (V, K), or the columns that the loss reads.
    """
    return cls_loss.probabilities(logits.float())[:, :-1].amax(dim=1)


def divisor_of_weights(weights: Tensor) -> Tensor:
    """Return the sum of the weights, (V,), a mean over processes; 1 in place of 0."""
    total = mean_over_processes(weights.sum())
    return torch.where(total > 0, total, torch.ones_like(total))
