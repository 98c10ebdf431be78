"""
Importance-based sample reweighting of positives (ISR-P), the classification part of PISA.

Shape shorthand:
    ...: any leading shape, one entry per anchor or RoI
    P: number of positives
    K: number of classes
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_count, check_labels, check_option
from ..ops.group_ranks import ranks_in_groups
from .precision import dtype_of_result


@torch.no_grad()
def isr_p_weights(
    labels: Tensor,
    objects: Tensor,
    iou: Tensor,
    loss: Tensor,
    *,
    num_classes: int,
    k: float = 2.0,
    bias: float = 0.0,
) -> Tensor:
    """
    Compute the ISR-P weight of the classification loss of each anchor or RoI.

        w_i = (bias + (1 - bias) * (n - h_i) / n)^k * sum_j L_j / sum_j w_j L_j

    n is the largest number of positives of a class. The rank h_i counts the positives of the class
    from 0: first the best positive of every object, then the second best, and so on. Positives of
    the same rank in their object are ordered by IoU. The last factor keeps the loss of all
    positives the same.

    (arXiv:1904.04821 section 4.1. Of equal IoUs the lower index is better.)

    Args:
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        objects: (...), integer, the object of each positive. An object of another image must have
            another number. It is read only where the label is a class.
        iou: (...), IoU of the decoded box with its object; read only where the label is a class.
        loss: (...), classification loss, >= 0; read only where the label is a class.
        num_classes: K.
        k: exponent, >= 0; 0 sets all weights to 1.
        bias: weight of the least important positives, in [0, 1], before the last factor.

    Returns:
        (...), without gradient, float64 if iou or loss is, else float32; 1 for all but positives.
        The last factor is 1 if the weighted loss is 0.

    Raises:
        ValueError: an option or a label is outside its legal range, or the shapes do not match.
    """
    num_classes = check_count("num_classes", num_classes, low=1)
    k, bias = check_option("k", k, low=0), check_option("bias", bias, low=0, high=1)
    labels = check_labels(labels, num_classes=num_classes)
    shapes = [tuple(tensor.shape) for tensor in (labels, objects, iou, loss)]
    if len(set(shapes)) > 1:
        raise ValueError(f"labels, objects, iou and loss must have the same shape, got {shapes}")
    dtype = dtype_of_result(iou, loss)
    weights = torch.ones(labels.shape, dtype=dtype, device=labels.device)
    positives = (labels >= 0) & (labels < num_classes)
    classes = labels[positives].long()
    if not len(classes):
        return weights
    ranks = _hierarchical_ranks(classes, objects[positives].long(), iou[positives])
    largest = torch.bincount(classes).max()
    importance = (largest - ranks).to(dtype) / largest
    unscaled = (bias + (1 - bias) * importance) ** k
    of_positives = loss[positives].to(dtype)
    total, weighted = of_positives.sum(), (unscaled * of_positives).sum()
    factor = torch.where(weighted > 0, total / weighted, torch.ones_like(total))
    return weights.masked_scatter(positives, unscaled * factor)


def _hierarchical_ranks(classes: Tensor, objects: Tensor, iou: Tensor) -> Tensor:
    """Rank the positives of each class by rank in their object, then by IoU: int64 (P,)."""
    by_iou = iou.argsort(descending=True, stable=True)
    _, object_of_class = torch.stack([classes, objects]).unique(dim=1, return_inverse=True)
    in_object = ranks_in_groups(object_of_class, by_iou)
    return ranks_in_groups(classes, by_iou[in_object[by_iou].argsort(stable=True)])
