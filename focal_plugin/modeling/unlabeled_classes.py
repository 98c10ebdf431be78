"""
Classes with which an image is not labeled: their logits are no negatives there.

A logit that is left out becomes a constant so low that its probability is below 1e-37. A loss of
independent classes vanishes for such a negative, and a constant has no gradient. So every loss,
miner and running statistic leaves it out, without a mask of its own.

Shape shorthand:
    N: number of images
    Hi, Wi: height and width of feature level i
    A: anchors per location
    R: anchors per image over all levels, the sum of Hi * Wi * A
    K: number of classes
    L: number of labeled classes of an image
"""

from __future__ import annotations

import copy
import math

import torch
from detectron2.structures import Instances
from torch import Tensor

from ..losses import ClassificationLoss

FIELD = "labeled_classes"
"""
Field of the `Instances` of a partly labeled image, with an attribute `classes`, int64 (L,).

The mapper in `focal_plugin.data` sets it. Without it, every class is labeled.
"""

LOWEST = -1e4
"""Logit of a class that is left out; float16 holds it, too."""

VANISHES = 1e-20
"""Loss of a few such negatives below which it does not count."""


def leave_out_unlabeled(
    logits: list[Tensor], gt_labels: list[Tensor], gt_instances: list[Instances]
) -> list[Tensor]:
    """
    Leave out the negatives of the classes with which an image is not labeled.

    The logit of an object's own class stays, even if its class is not labeled completely.

    Args:
        logits: one per level, (N, Hi, Wi, A, K).
        gt_labels: one per image, (R,), in {-1 (ignored), 0..K-1, K (background)}.
        gt_instances: one per image, with the field :data:`FIELD` if it is partly labeled.

    Returns:
        the logits, with a constant for those that are left out; the same tensors if every image is
        labeled completely.
    """
    if not any(instances.has(FIELD) for instances in gt_instances):
        return logits
    num_classes = logits[0].shape[-1]
    classes = torch.arange(num_classes, device=logits[0].device)
    unlabeled = torch.stack([_unlabeled(instances, classes) for instances in gt_instances])
    levels = torch.stack(gt_labels).split([x[0, ..., 0].numel() for x in logits], dim=1)
    return [
        _leave_out(level, unlabeled, labels) for level, labels in zip(logits, levels, strict=True)
    ]


def _leave_out(logits: Tensor, unlabeled: Tensor, labels: Tensor) -> Tensor:
    """
    Leave out the classes of one level.

    Args:
        logits: (N, Hi, Wi, A, K).
        unlabeled: (N, K), bool.
        labels: (N, Hi * Wi * A).
    """
    # (N, A, K, Hi, Wi), the layout of a head's output, in which a class is a plane
    planes = logits.permute(0, 3, 4, 1, 2)
    masked = planes.masked_fill(unlabeled[:, None, :, None, None], LOWEST).permute(0, 3, 4, 1, 2)
    is_object = (labels >= 0) & (labels < logits.shape[-1])
    kept = is_object & unlabeled.gather(1, labels.masked_fill(~is_object, 0))
    if kept.any():
        image, anchor = kept.nonzero(as_tuple=True)
        place = torch.unravel_index(anchor, logits.shape[1:-1])
        at = (image, *place, labels[image, anchor])
        masked.index_put_(at, logits[at])
    return masked


def _unlabeled(instances: Instances, classes: Tensor) -> Tensor:
    """Return the mask of the classes with which an image is not labeled, bool (K,)."""
    if not instances.has(FIELD):
        return torch.zeros_like(classes, dtype=torch.bool)
    return ~torch.isin(classes, instances.get(FIELD).classes)


def check_leaves_out(loss: ClassificationLoss, num_classes: int) -> None:
    """
    Check that a class that is left out has no part in a loss.

    Raises:
        ValueError: the loss shares one sum among the classes, its negatives do not vanish, or it
            counts them.
    """
    name = type(loss).__name__
    if loss.softmax:
        raise ValueError(
            f"{name} compares all classes with each other, so none can be left out of an image; "
            "choose a loss of independent classes"
        )
    device = next(loss.buffers(), torch.zeros(0)).device
    logits = torch.linspace(-2, 2, 3 * num_classes, device=device).view(3, num_classes)
    nothing = torch.full_like(logits[:1], LOWEST)
    alone, both = (_loss(loss, x, num_objects=2) for x in (logits, torch.cat([logits, nothing])))
    vanishes = abs(_loss(loss, nothing, num_objects=0)) < VANISHES
    if not (vanishes and math.isclose(both, alone, rel_tol=1e-5)):
        raise ValueError(
            f"{name} counts a negative of probability 0, so no class can be left out of an image; "
            "choose a loss that is a sum of its negatives"
        )


@torch.no_grad()
def _loss(loss: ClassificationLoss, logits: Tensor, *, num_objects: int) -> float:
    """Return the loss of an image whose first anchors have class 0; its state stays unchanged."""
    labels = torch.full(logits.shape[:1], logits.shape[1], device=logits.device)
    labels[:num_objects] = 0
    quality = 1 / (2 + torch.arange(len(labels), device=logits.device))
    options = {"quality": quality.unsqueeze(0)} if loss.needs_quality else {}
    image = logits.unsqueeze(0), labels.unsqueeze(0)
    return float(copy.deepcopy(loss).eval()(*image, **options))
