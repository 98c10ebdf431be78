"""
FreeAnchor: each object learns which of its anchors to use.

Shape shorthand:
    N: number of images
    R: anchors per image over all levels
    K: number of classes
    M: number of objects in an image
    B: anchors of a bag
    V: anchors that may be positive
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_count, check_option
from ..ops import Terms
from ..ops.box_pairs import box_iou, object_chunks, smallest
from ..ops.level_rows import rows_of_levels, split_levels
from ..registry import configurable
from .base import BagLoss, BoxTransform
from .build import BAG_LOSS_REGISTRY
from .elementwise import sum_of_terms
from .sigmoid_focal import Focal
from .smooth_l1 import smooth_l1_of_errors

EPS = 1e-12
"""Lower bound of 1 - x, and of z in its power."""


def free_anchor_loss(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Tensor,
    gt_boxes: Sequence[Tensor],
    gt_classes: Sequence[Tensor],
    *,
    transform: BoxTransform,
    ignored: Tensor | None = None,
    bag_size: int = 50,
    iou_threshold: float = 0.6,
    alpha: float = 0.5,
    gamma: float = 2.0,
    box_weight: float = 0.75,
    beta: float = 0.11,
) -> tuple[Tensor, Tensor]:
    """
    Compute the loss of FreeAnchor, which has no label for each anchor.

        bag of g = the bag_size anchors of largest IoU with g
        x_i      = p_i(class of g) * exp(-box_weight * smooth L1(deltas_i, target of i and g))
        positive = alpha * sum over g of -log(sum_i u_i x_i / sum_i u_i) / M,   u_i = 1 / (1 - x_i)
        a_jc     = max over g of class c of
                   clip((IoU(box j, g) - t) / (max_j IoU(box j, g) - t), 0, 1),  t = iou_threshold
        z_jc     = p_jc * (1 - a_jc)
        negative = (1 - alpha) * sum over j, c of z^gamma * -log(1 - z) / (bag_size * M)

    M counts the objects of all images; without objects both divisors are 1. The gradient passes
    through u, but not through a. Of equal IoUs, the lower index is in the bag.

    (arXiv:1909.02466 section 3; the constants are those of the authors' code.)

    Args:
        logits: one tensor for each level, (N, ..., K), in any layout; computed in float32, or
            float64.
        deltas: the same with 4 for K.
        anchors: (R, 4), XYXY.
        gt_boxes: one for each image, (M, 4), XYXY; M may be 0.
        gt_classes: one for each image, (M,), int64, in 0..K-1.
        transform: the conversion of the deltas. The weights of the paper are (10, 10, 5, 5). With
            weights of 1, exp(-...) is near 1 for every box, and a bag cannot choose by them.
        ignored: bool (N, R), anchors without a negative loss, unless their a is positive for a
            class. None: no anchor.
        bag_size: >= 1; all anchors if there are fewer.
        iou_threshold: in (0, 1).
        alpha: in [0, 1].
        gamma: >= 0.
        box_weight: >= 0.
        beta: end of the parabola of smooth L1, >= 0.

    Returns:
        positive and negative loss, scalars; differentiable zeros without anything to sum.

    Raises:
        ValueError: an option is outside its legal range.

    Note:
        a is stored for the V anchors with an IoU above the threshold only. All other anchors are
        summed by :func:`~focal_plugin.ops.dense_loss`, as background of the focal loss.
    """
    bag_size = check_count("bag_size", bag_size, low=1)
    check_option("iou_threshold", iou_threshold, low=0, high=1, open_low=True, open_high=True)
    alpha = check_option("alpha", alpha, low=0, high=1)
    gamma = check_option("gamma", gamma, low=0)
    box_weight = check_option("box_weight", box_weight, low=0)
    beta = check_option("beta", beta, low=0)
    objects = _Objects.of(gt_boxes, gt_classes)
    count = len(objects.classes)
    bags = _bags(anchors, objects, bag_size)
    matching = _log_matching(
        logits, deltas, anchors, objects, bags, transform, box_weight=box_weight, beta=beta
    )
    positive = alpha * _bag_losses(matching).sum() / max(count, 1)
    shares = _shares(deltas, anchors, objects, transform, iou_threshold, logits[0].shape[-1])
    negative = _negative_sum(logits, shares, ignored, gamma)
    return positive, negative * ((1 - alpha) / max(count * bag_size, 1))


@BAG_LOSS_REGISTRY.register()
class FreeAnchorLoss(BagLoss):
    """
    Module of :func:`free_anchor_loss`, with the same options.

    Reported:
        RetinaNet R-50-FPN, COCO: 36.3 -> 38.7 AP over focal loss and IoU thresholds
    """

    config_keys = {
        "bag_size": "MODEL.FOCAL.BAG_LOSS.BAG_SIZE",
        "iou_threshold": "MODEL.FOCAL.BAG_LOSS.IOU_THRESHOLD",
        "alpha": "MODEL.FOCAL.BAG_LOSS.ALPHA",
        "gamma": "MODEL.FOCAL.BAG_LOSS.GAMMA",
        "box_weight": "MODEL.FOCAL.BAG_LOSS.BOX_WEIGHT",
        "beta": "MODEL.FOCAL.BAG_LOSS.BOX_BETA",
    }

    @configurable
    def __init__(
        self,
        *,
        bag_size: int = 50,
        iou_threshold: float = 0.6,
        alpha: float = 0.5,
        gamma: float = 2.0,
        box_weight: float = 0.75,
        beta: float = 0.11,
    ) -> None:
        super().__init__()
        self.bag_size = check_count("bag_size", bag_size, low=1)
        self.iou_threshold = check_option(
            "iou_threshold", iou_threshold, low=0, high=1, open_low=True, open_high=True
        )
        self.alpha = check_option("alpha", alpha, low=0, high=1)
        self.gamma = check_option("gamma", gamma, low=0)
        self.box_weight = check_option("box_weight", box_weight, low=0)
        self.beta = check_option("beta", beta, low=0)

    def losses(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Tensor,
        gt_boxes: Sequence[Tensor],
        gt_classes: Sequence[Tensor],
        *,
        transform: BoxTransform,
        ignored: Tensor | None = None,
    ) -> dict[str, Tensor]:
        positive, negative = free_anchor_loss(
            logits,
            deltas,
            anchors,
            gt_boxes,
            gt_classes,
            transform=transform,
            ignored=ignored,
            **{option: getattr(self, option) for option in self.config_keys},
        )
        return {"loss_positive_bag": positive, "loss_negative_bag": negative}


class _Objects(NamedTuple):
    """Objects of all images together."""

    image: Tensor  # (M,), int64, in 0..N-1
    boxes: Tensor  # (M, 4)
    classes: Tensor  # (M,), int64

    @classmethod
    def of(cls, gt_boxes: Sequence[Tensor], gt_classes: Sequence[Tensor]) -> _Objects:
        image = [torch.full_like(classes, n) for n, classes in enumerate(gt_classes)]
        return cls(torch.cat(image), torch.cat(list(gt_boxes)), torch.cat(list(gt_classes)))


class _Shares(NamedTuple):
    """The factors a of the anchors for which one is positive."""

    image: Tensor  # (V,), int64, in 0..N-1
    anchor: Tensor  # (V,), int64, in 0..R-1
    factor: Tensor  # (V, K), in [0, 1]


@torch.no_grad()
def _bags(anchors: Tensor, objects: _Objects, bag_size: int) -> Tensor:
    """Return the anchors of the bag of each object, int64 (M, B)."""
    chunks = object_chunks(len(objects.boxes), len(anchors))
    bags = [
        smallest(-box_iou(objects.boxes[chunk].unsqueeze(1), anchors), bag_size) for chunk in chunks
    ]
    empty = objects.classes.new_empty(0, min(bag_size, len(anchors)))
    return torch.cat([empty, *bags])


def _log_matching(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Tensor,
    objects: _Objects,
    bags: Tensor,
    transform: BoxTransform,
    *,
    box_weight: float,
    beta: float,
) -> Tensor:
    """Return log(x) of each anchor in each bag, (M, B)."""
    of_object = torch.arange(len(bags), device=bags.device).unsqueeze(1).expand_as(bags).flatten()
    place = (objects.image[of_object], bags.flatten())
    logit = _real(rows_of_levels(logits, *place)).gather(1, objects.classes[of_object].unsqueeze(1))
    target = transform.get_deltas(anchors[place[1]], objects.boxes[of_object])
    error = (_real(rows_of_levels(deltas, *place)) - target).abs()
    box_loss = box_weight * smooth_l1_of_errors(error, beta=beta).sum(dim=1)
    return (F.logsigmoid(logit.squeeze(1)) - box_loss).view(bags.shape)


def _bag_losses(log_x: Tensor) -> Tensor:
    """Return -log(sum of u x / sum of u), u = 1 / (1 - x), of each bag: (M, B) -> (M,)."""
    # log(1 - x), each branch where it is exact; the other one stays finite, so that its gradient
    # is 0 and not NaN
    log_half = -math.log(2)
    small = (-log_x.clamp(max=log_half).exp()).log1p()
    large = (-log_x.expm1()).clamp(min=EPS).log()
    log_u = -torch.where(log_x < log_half, small, large)
    return log_u.logsumexp(dim=1) - (log_u + log_x).logsumexp(dim=1)


@torch.no_grad()
def _shares(
    deltas: Sequence[Tensor],
    anchors: Tensor,
    objects: _Objects,
    transform: BoxTransform,
    iou_threshold: float,
    num_classes: int,
) -> _Shares:
    """Compute the factors a from the decoded boxes."""
    empty = objects.image[:0]
    rows, columns, factors = [empty], [empty], [anchors[:0, 0]]
    for n in objects.image.unique().tolist():
        boxes = transform.apply_deltas(torch.cat([x[n].reshape(-1, 4) for x in deltas]), anchors)
        own = objects.image == n
        gt_boxes, classes = objects.boxes[own], objects.classes[own]
        for chunk in object_chunks(len(gt_boxes), len(anchors)):
            iou = box_iou(gt_boxes[chunk].unsqueeze(1), boxes)  # (m, R)
            g, j = (iou > iou_threshold).nonzero(as_tuple=True)
            above = iou[g, j] - iou_threshold
            factors.append(above / (iou.amax(dim=1)[g] - iou_threshold))
            rows.append(j + n * len(anchors))
            columns.append(classes[chunk][g])
    row, of_pair = torch.cat(rows).unique(return_inverse=True)
    factor = torch.zeros(len(row) * num_classes, dtype=factors[-1].dtype, device=anchors.device)
    place = of_pair * num_classes + torch.cat(columns)
    factor.scatter_reduce_(0, place, torch.cat(factors).to(factor.dtype), "amax")
    return _Shares(
        image=row // max(len(anchors), 1),
        anchor=row % max(len(anchors), 1),
        factor=factor.view(-1, num_classes).clamp(max=1),
    )


def _negative_sum(
    logits: Sequence[Tensor], shares: _Shares, ignored: Tensor | None, gamma: float
) -> Tensor:
    """Return the sum of z^gamma * -log(1 - z) over all anchors and classes."""
    num_images, num_classes = logits[0].shape[0], logits[0].shape[-1]
    size = (num_images, sum(x[0, ..., 0].numel() for x in logits))
    labels = torch.full(size, num_classes, device=logits[0].device)
    if ignored is not None:
        labels.masked_fill_(ignored, -1)
    labels[shares.image, shares.anchor] = -1
    of_levels = split_levels(labels, logits)
    rows = _real(rows_of_levels(logits, shares.image, shares.anchor))
    loss = _negatives(rows, shares.factor, gamma)
    if loss.dtype == torch.float64:  # the other sum is in float32
        rest = [x[y >= 0] for x, y in zip(logits, of_levels, strict=True)]
        return loss.sum() + sum(_negatives(x, torch.zeros_like(x), gamma).sum() for x in rest)
    return loss.sum() + sum_of_terms(logits, of_levels, Terms(Focal(gamma), Focal(gamma)))


def _negatives(logits: Tensor, factor: Tensor, gamma: float) -> Tensor:
    """
    Return z^gamma * -log(1 - z), z = p (1 - a), elementwise.

    1 - z is (1 - p) + p a, a sum of positive terms.
    """
    log_of_rest = torch.logaddexp(F.logsigmoid(-logits), F.logsigmoid(logits) + factor.log())
    z = (logits.sigmoid() * (1 - factor)).clamp(min=EPS)  # with a finite slope for gamma < 1
    return z**gamma * -log_of_rest


def _real(values: Tensor) -> Tensor:
    """Return float64 unchanged, and any other dtype as float32."""
    return values if values.dtype == torch.float64 else values.float()
