"""
Sampling and weighting of negative RoIs by score (Score-HLR, ISR-N), a part of PISA.

Shape shorthand:
    R: number of negatives of an image
    V: negatives with a score above the threshold
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from ..checks import check_option
from ..ops.group_ranks import ranks_in_groups
from .sampling import draw


@torch.no_grad()
def score_hlr_negatives(
    scores: Tensor,
    boxes: Tensor,
    loss: Tensor,
    *,
    num_expected: int,
    k: float = 0.5,
    bias: float = 0.0,
    score_thresh: float = 0.05,
    nms_thresh: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """
    Select and weigh negatives by hierarchical rank of their scores (Score-HLR).

        w_i = (bias + (1 - bias) * (n - h_i) / n)^k * sum_j L_j / sum_j w_j L_j

    Negatives above the threshold form clusters by suppression, the best score first. The rank h
    orders them by their rank in the cluster, then by score. The first ``num_expected`` are taken. A
    shortfall is drawn at random from all others, which get the smallest weight. n is the larger of
    the number of negatives above the threshold and of those to take.

    (arXiv:1904.04821 sections 3 and 4.1. Of equal scores the lower index is better.)

    Args:
        scores: (R,), largest probability of a class.
        boxes: (R, 4), XYXY, decoded box of that class.
        loss: (R,), classification loss, >= 0.
        num_expected: number of negatives to take, >= 0.
        k: exponent, >= 0.
        bias: least weight, in [0, 1], before the last factor.
        score_thresh: score above which a negative is ranked, in [0, 1].
        nms_thresh: IoU above which a negative joins the cluster of a better one, in [0, 1].

    Returns:
        int64, indices of ``num_expected`` different negatives, or of all if there are no more; and
        their weights, float32, which are 1 if no negative is above the threshold.

    Raises:
        ValueError: an option is outside its legal range.
    """
    k, bias = check_option("k", k, low=0), check_option("bias", bias, low=0, high=1)
    score_thresh = check_option("score_thresh", score_thresh, low=0, high=1)
    nms_thresh = check_option("nms_thresh", nms_thresh, low=0, high=1)
    num_expected = min(num_expected, len(scores))
    is_ranked = scores > score_thresh
    ranked, others = (mask.nonzero().squeeze(1) for mask in (is_ranked, ~is_ranked))
    order = _hierarchical_order(scores[ranked], boxes[ranked].float(), nms_thresh)
    hard = ranked[order[:num_expected]]
    chosen = torch.cat([hard, draw(others, num_expected - len(hard))])
    largest = max(num_expected, len(ranked))
    ranks = torch.arange(num_expected, device=scores.device).clamp(max=max(len(hard) - 1, 0))
    weights = (bias + (1 - bias) * (largest - ranks).float() / max(largest, 1)) ** k
    of_chosen = loss[chosen].float()
    total, weighted = of_chosen.sum(), (weights * of_chosen).sum()
    return chosen, weights * torch.where(weighted > 0, total / weighted, torch.ones_like(total))


def _hierarchical_order(scores: Tensor, boxes: Tensor, nms_thresh: float) -> Tensor:
    """Return the order of (V,) scores by rank in the cluster, then by score: int64 (V,)."""
    by_score = scores.argsort(descending=True, stable=True)
    in_order = boxes[by_score]
    # Ranks replace scores, because the order of equal scores in nms depends on its version.
    places = torch.arange(len(scores), 0, -1, dtype=torch.float32, device=scores.device)
    best = nms(in_order, places, nms_thresh)  # of each cluster, the best cluster first
    cluster = torch.empty_like(by_score)
    if len(best):
        cluster[by_score] = (box_iou(in_order, in_order[best]) > nms_thresh).byte().argmax(dim=1)
        cluster[by_score[best]] = torch.arange(len(best), device=scores.device)
    in_cluster = ranks_in_groups(cluster, by_score)
    return by_score[in_cluster[by_score].argsort(stable=True)]
