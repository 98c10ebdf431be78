"""APE loss: a smooth average precision with the pairs of each positive that err."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_count, check_option
from ..ops.formula import refuse_second_derivative
from ..ops.levels import Levels
from ..registry import configurable
from .build import CLS_LOSS_REGISTRY
from .ranking import RankingLoss, levels_of, qualities_of

REACH = 4.0
"""Gap times scale below a positive, from which on a logit does not count."""

PAIRS_PER_CHUNK = 1 << 18


def ape_loss(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor,
    *,
    scale: float = 8.0,
    top_k: int = 100_000,
) -> Tensor:
    """
    Compute the adaptive pairwise error (APE) of all logits that are not ignored.

        APE = 1/scale * mean_i t_i / rank_i * sum over j in F_i of softplus(scale * (x_j - x_i))
        F_i = negatives, and positives with t_j < t_i, all with x_j > x_i - 4 / scale
        rank_i = sum of sigmoid(scale * (x_j - x_i)) over F_i and the other positives in reach

    i are the positives with an F_i that is not empty, and t_j is their quality. The rank is a
    constant, so the gradient of a pair is the share of its sigmoid in the rank.

    (arXiv:2207.12042, without its clustering of pairs.)

    Args:
        logits: (..., K), any floating dtype; computed in float64.
        labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
        quality: (...), IoU in [0, 1] of each decoded box with its ground truth. It is a constant,
            and is read only where the label is a class.
        scale: the paper's lambda, > 0.
        top_k: number of negatives that count, those with the highest logits, >= 1.

    Returns:
        scalar, not to be divided by the number of positives; float64 for float64 logits, else
        float32. A differentiable 0 if there is no positive. It can be differentiated once.

    Raises:
        ValueError: an option, a label or a quality is outside its legal range, or the shapes do not
            match.

    Note:
        It takes O(P * (top_k + P)) time for P positives, unlike the losses of a ramp.
    """
    scale, top_k = _check_scale(scale), _check_top_k(top_k)
    return _loss([logits], [labels], [quality], scale=scale, top_k=top_k)


@CLS_LOSS_REGISTRY.register()
class APELoss(RankingLoss):
    """
    Module of :func:`ape_loss`, with the same options.

    Reported:
        ATSS R-50-FPN, 24 epochs, COCO: 37.3 AP with a scale of 8, 36.9 with 4, in its authors' code
    """

    needs_quality = True
    config_keys = {
        "scale": "MODEL.FOCAL.CLS_LOSS.APE_SCALE",
        "top_k": "MODEL.FOCAL.CLS_LOSS.APE_TOP_K",
    }

    @configurable
    def __init__(self, *, scale: float = 8.0, top_k: int = 100_000) -> None:
        super().__init__()
        self.scale = _check_scale(scale)
        self.top_k = _check_top_k(top_k)

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def of_levels(
        self,
        logits: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        quality: Sequence[Tensor] | None = None,
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        return _loss(logits, labels, quality, scale=self.scale, top_k=self.top_k) * scale


def _loss(
    logits: Sequence[Tensor],
    labels: Sequence[Tensor],
    quality: Sequence[Tensor] | None,
    *,
    scale: float,
    top_k: int,
) -> Tensor:
    levels = levels_of(logits, labels)
    qualities = qualities_of(levels, logits, labels, quality)
    # One gather per level, because its gradient is as large as the level
    places = _highest_negatives(levels, scale=scale, top_k=top_k)
    ends = [len(x) for x in places]
    gathered = [
        level.block.logits.view(-1)[torch.cat([at, level.positives.at])].double()
        for level, at in zip(levels, places, strict=True)
    ]
    negatives = torch.cat([x[:end] for x, end in zip(gathered, ends, strict=True)])
    positives = torch.cat([x[end:] for x, end in zip(gathered, ends, strict=True)])
    loss: Tensor = _APE.apply(negatives, positives, qualities.double(), scale)
    return loss.to(torch.promote_types(logits[0].dtype, torch.float32))


@torch.no_grad()
def _highest_negatives(levels: Levels, *, scale: float, top_k: int) -> list[Tensor]:
    """Return the index in memory of the highest negatives in reach of a positive, per level."""
    lowest = levels.scores.min() - REACH / scale if len(levels.scores) else torch.inf
    highest = levels.scores.new_zeros(0)
    place = torch.zeros(2, 0, dtype=torch.int64, device=highest.device)  # level, index in it
    for number, level in enumerate(levels):
        first = 0
        for _, chunk in level.negatives():
            x = chunk.view(-1)
            at = (~(x <= lowest)).nonzero().squeeze(1)  # a NaN stays
            found = torch.stack([torch.full_like(at, number), at + first])
            highest, place = torch.cat([highest, x[at]]), torch.cat([place, found], dim=1)
            if len(highest) > top_k:
                highest, order = highest.topk(top_k, sorted=False)
                place = place[:, order]
            first += len(x)
    return [place[1, place[0] == number] for number, _ in enumerate(levels)]


class _APE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, negatives: Tensor, positives: Tensor, quality: Tensor, scale: float
    ) -> Tensor:
        scores = torch.cat([negatives, positives])
        is_negative = torch.arange(len(scores), device=scores.device) < len(negatives)
        of_all = torch.cat([torch.full_like(negatives, -torch.inf), quality])
        loss = torch.zeros_like(positives)
        gradient = torch.zeros_like(scores)
        errs = torch.zeros_like(positives, dtype=torch.bool)
        rows = max(PAIRS_PER_CHUNK // max(len(scores), 1), 1)
        for first in range(0, len(positives), rows):
            some = slice(first, first + rows)
            own = quality[some].unsqueeze(1)
            at = positives[some].unsqueeze(1)
            gap = scale * (scores - at)
            in_reach = ~(scores <= at - REACH / scale)  # True for a NaN
            wrong = in_reach & (is_negative | (of_all < own))
            above = gap.sigmoid() * in_reach
            rank = above.sum(1).clamp(min=0.5)  # the positive itself, whatever is rounded
            weight = quality[some] / rank
            loss[some] = weight * F.softplus(gap, threshold=40).masked_fill(~wrong, 0.0).sum(1)
            pulls = weight.unsqueeze(1) * above * wrong
            gradient += pulls.sum(0)
            gradient[len(negatives) :][some] -= pulls.sum(1)
            errs[some] = wrong.any(1)
        count = errs.sum().clamp(min=1)
        ctx.save_for_backward(gradient / count)
        ctx.sizes = len(negatives), len(positives)
        return loss.sum() / (scale * count)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        refuse_second_derivative()
        (gradient,) = ctx.saved_tensors
        negatives, positives = (upstream * gradient).split(ctx.sizes)
        return negatives, positives, None, None


def _check_scale(scale: float) -> float:
    return check_option("scale", scale, low=0, open_low=True)


def _check_top_k(top_k: int) -> int:
    return check_count("top_k", top_k, low=1)
