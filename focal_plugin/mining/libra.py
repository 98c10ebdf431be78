"""
Balanced sampling of RoIs: negatives by IoU, positives by object.

Shape shorthand:
    R: number of RoIs of an image
    P: number of positives
    M: number of objects that have a positive
    B: number of bins
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import check_choice, check_count, check_option
from ..ops.group_ranks import ranks_in_groups
from .sampling import draw, without

IOU_RANGES = ("negatives", "all")
"""Legal values of ``range_of`` in :func:`iou_balanced_plan`."""


class IoUBalancedPlan(NamedTuple):
    """
    Part of IoU-balanced sampling that is not random.

    Attributes:
        pool: int64, negatives that are balanced.
        floor: int64, negatives of an IoU below the floor.
        pool_quota: number to draw from the pool.
        edges: float64 (B + 1,), IoUs between the bins.
        bins: one for each bin, int64, negatives of the pool.
        quota_per_bin: number to draw from each bin.
    """

    pool: Tensor
    floor: Tensor
    pool_quota: int
    edges: Tensor
    bins: list[Tensor]
    quota_per_bin: int


class InstanceBalancedPlan(NamedTuple):
    """
    Part of instance-balanced sampling that is not random.

    Attributes:
        quota_per_object: largest number to draw from each object.
        taken: int64 (M,), number to draw from each object, in the order of the objects' numbers.
        extra: number to draw from the positives that remain.
        dropped: number of drawn positives to drop.
    """

    quota_per_object: int
    taken: Tensor
    extra: int
    dropped: int


def iou_balanced_plan(
    max_iou: Tensor,
    is_negative: Tensor,
    *,
    num_expected: int,
    num_bins: int = 3,
    floor_thr: float = -1.0,
    floor_fraction: float = 0.0,
    range_of: str = "negatives",
) -> IoUBalancedPlan:
    """
    Plan IoU-balanced sampling of negatives.

        bin b = negatives with e_b <= IoU < e_(b+1),  e_b = max(floor_thr, 0) + b * width

    The bins have equal widths and end at the largest IoU. The box of that IoU is in no bin. A
    shortfall of the bins is drawn from the rest of the pool, then from the floor.

    (arXiv:1904.02701 section 3.1.)

    Note:
        In the published code the range is that of all boxes, with the appended objects of IoU 1. A
        negative has an IoU below .5, so that the third of three bins is always empty. From the
        second image on, its ``floor_thr`` is 0: boxes of IoU 0 are drawn last. Both together are
        ``range_of="all", floor_thr=0``.

    Args:
        max_iou: (R,), largest IoU of each RoI with an object.
        is_negative: bool (R,).
        num_expected: number of negatives to draw, >= 0.
        num_bins: B, >= 1; 1 is one bin of the whole pool.
        floor_thr: IoU below which a negative is in the floor; 0: at 0. Less: there is no floor.
        floor_fraction: share of ``num_expected`` that is not drawn from the pool, in [0, 1].
        range_of: boxes that determine the largest IoU, "negatives" or "all".

    Raises:
        ValueError: an option is outside its legal range.
    """
    num_bins = check_count("num_bins", num_bins, low=1)
    floor_thr = check_option("floor_thr", floor_thr, low=-1, high=1)
    floor_fraction = check_option("floor_fraction", floor_fraction, low=0, high=1)
    check_choice("range_of", range_of, IOU_RANGES)
    iou = max_iou.double()
    above = iou > floor_thr if floor_thr <= 0 else iou >= floor_thr
    pool, floor = (_indices(is_negative & x) for x in (above, ~above))
    of_range = iou if range_of == "all" else iou[is_negative]
    start = max(floor_thr, 0.0)
    width = (float(of_range.max()) - start) / num_bins if len(of_range) else 0.0
    edges = [start + b * width for b in range(num_bins + 1)]
    of_pool = iou[pool]
    bins = [pool[(of_pool >= low) & (of_pool < high)] for low, high in itertools.pairwise(edges)]
    pool_quota = int(num_expected * (1 - floor_fraction))
    return IoUBalancedPlan(
        pool=pool,
        floor=floor,
        pool_quota=pool_quota,
        edges=torch.tensor(edges, dtype=torch.float64),
        bins=bins if num_bins > 1 else [pool],
        quota_per_bin=int(pool_quota / num_bins),
    )


def iou_balanced_negatives(
    max_iou: Tensor,
    is_negative: Tensor,
    *,
    num_expected: int,
    num_bins: int = 3,
    floor_thr: float = -1.0,
    floor_fraction: float = 0.0,
    range_of: str = "negatives",
) -> Tensor:
    """
    Draw negatives that are balanced by IoU, see :func:`iou_balanced_plan`.

    Returns:
        int64, indices of ``num_expected`` different negatives; of all, if there are no more.
    """
    negatives = _indices(is_negative)
    if len(negatives) <= num_expected:
        return negatives
    plan = iou_balanced_plan(
        max_iou,
        is_negative,
        num_expected=num_expected,
        num_bins=num_bins,
        floor_thr=floor_thr,
        floor_fraction=floor_fraction,
        range_of=range_of,
    )
    chosen = plan.pool
    if len(plan.pool) > plan.pool_quota:
        chosen = torch.cat([draw(members, plan.quota_per_bin) for members in plan.bins])
        rest = draw(without(plan.pool, chosen), plan.pool_quota - len(chosen))
        chosen = torch.cat([chosen, rest])
    for others in (plan.floor, negatives):
        rest = draw(without(others, chosen), num_expected - len(chosen))
        chosen = torch.cat([chosen, rest])
    return chosen


def instance_balanced_plan(objects: Tensor, *, num_expected: int) -> InstanceBalancedPlan:
    """
    Plan instance-balanced sampling of positives.

        quota_per_object = round(num_expected / M) + 1,  a half is rounded to the even number

    (arXiv:1904.02701 section 3.1; the formula is that of the published code.)

    Args:
        objects: integer (P,), object of each positive.
        num_expected: number of positives to draw, >= 0.
    """
    sizes = objects.unique(return_counts=True)[1]
    quota = round(num_expected / max(len(sizes), 1)) + 1
    taken = sizes.clamp(max=quota)
    missing = num_expected - int(taken.sum())
    return InstanceBalancedPlan(quota, taken, extra=max(missing, 0), dropped=max(-missing, 0))


def instance_balanced_positives(objects: Tensor, *, num_expected: int) -> Tensor:
    """
    Draw positives that are balanced by object, see :func:`instance_balanced_plan`.

    Note:
        In the published code a positive that is drawn to make up a shortfall may be drawn already,
        and is then twice in the sample. Here it is drawn from the rest.

    Args:
        objects: integer (P,), object of each positive.
        num_expected: number of positives to draw, >= 0.

    Returns:
        int64, indices of ``num_expected`` different positives; of all, if there are no more.
    """
    positives = torch.arange(len(objects), device=objects.device)
    if len(positives) <= num_expected:
        return positives
    plan = instance_balanced_plan(objects, num_expected=num_expected)
    shuffled = positives[torch.randperm(len(positives), device=objects.device)]
    groups = objects.unique(return_inverse=True)[1]
    chosen = positives[ranks_in_groups(groups, shuffled) < plan.quota_per_object]
    extra = draw(without(positives, chosen), plan.extra)
    return torch.cat([draw(chosen, len(chosen) - plan.dropped), extra])


def _indices(mask: Tensor) -> Tensor:
    return mask.nonzero().squeeze(1)
