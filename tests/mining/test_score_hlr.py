"""Score-HLR: the rule in plain loops, its weights and its limits."""

import pytest
import torch
from torchvision.ops import box_iou

from focal_plugin.mining import score_hlr_negatives

from ..each import each


def random_negatives(seed, size=50):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(size, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 15 + torch.rand(size, 2, generator=generator) * 25], 1)
    scores = torch.randint(0, 20, (size,), generator=generator).float() / 19  # with ties
    return scores, boxes, torch.rand(size, generator=generator) + 0.1


def hard_by_loops(scores, boxes, score_thresh, nms_thresh):
    """Return the negatives above the threshold, the most important first."""
    ious, scores = box_iou(boxes, boxes).tolist(), scores.tolist()
    left = sorted((i for i, s in enumerate(scores) if s > score_thresh), key=lambda i: -scores[i])
    rank = {}
    while left:
        cluster = [i for i in left if i == left[0] or ious[left[0]][i] > nms_thresh]
        rank.update({i: r for r, i in enumerate(cluster)})
        left = [i for i in left if i not in cluster]
    return sorted(rank, key=lambda i: (rank[i], -scores[i], i))


@each("num", [0, 1, 10, 30, 50])
@each(("score_thresh", "nms_thresh"), [(0.05, 0.5), (0.5, 0.2), (0.0, 0.9)])
def test_the_hardest_are_taken_and_weighed_by_rank(num, score_thresh, nms_thresh):
    for seed in range(4):
        scores, boxes, loss = random_negatives(seed)
        options = {"score_thresh": score_thresh, "nms_thresh": nms_thresh}
        hard = hard_by_loops(scores, boxes, score_thresh, nms_thresh)
        torch.manual_seed(seed)
        chosen, weights = score_hlr_negatives(
            scores, boxes, loss, num_expected=num, k=0.7, bias=0.1, **options
        )
        taken = min(num, len(hard))
        assert chosen.tolist()[:taken] == hard[:taken]
        assert len(set(chosen.tolist())) == num
        largest = max(num, len(hard))
        w = [(0.1 + 0.9 * (largest - h) / largest) ** 0.7 for h in range(taken)]
        w = torch.tensor(w + w[-1:] * (num - taken))
        expected = w * loss[chosen].sum() / (w * loss[chosen]).sum() if num else w
        torch.testing.assert_close(weights, expected)


def test_a_shortfall_is_random_and_has_the_smallest_weight():
    scores = torch.tensor([0.9, 0.0, 0.8, 0.0, 0.0, 0.0])
    boxes = torch.arange(6).float().view(6, 1) * 50 + torch.tensor([0.0, 0, 10, 10])
    found = set()
    for seed in range(20):
        torch.manual_seed(seed)
        chosen, weights = score_hlr_negatives(scores, boxes, torch.ones(6), num_expected=4)
        assert chosen[:2].tolist() == [0, 2]
        assert weights[0] > weights[1] == weights[2] == weights[3]
        found.add(tuple(sorted(chosen[2:].tolist())))
    assert len(found) > 3


def test_without_a_score_above_the_threshold_the_draw_is_random_with_weights_of_one():
    _, boxes, loss = random_negatives(0)
    torch.manual_seed(0)
    chosen, weights = score_hlr_negatives(torch.zeros(50), boxes, loss, num_expected=10)
    assert (weights == 1).all()
    assert chosen.tolist() != sorted(chosen.tolist())
    chosen, weights = score_hlr_negatives(torch.zeros(50), boxes, loss, num_expected=90)
    assert chosen.tolist() == list(range(50))
    assert len(weights) == 50


def test_the_sum_of_the_losses_stays_and_a_loss_of_zero_is_finite():
    scores, boxes, loss = random_negatives(1)
    chosen, weights = score_hlr_negatives(scores, boxes, loss, num_expected=20)
    torch.testing.assert_close((weights * loss[chosen]).sum(), loss[chosen].sum())
    _, weights = score_hlr_negatives(scores, boxes, loss * 0, num_expected=20)
    assert weights.isfinite().all()


def test_nothing_gives_nothing_and_boxes_without_an_area_are_clusters_of_their_own():
    nothing = torch.zeros(0)
    chosen, weights = score_hlr_negatives(nothing, torch.zeros(0, 4), nothing, num_expected=5)
    assert chosen.tolist() == weights.tolist() == []
    chosen, _ = score_hlr_negatives(
        torch.tensor([0.1, 0.3, 0.2]), torch.zeros(3, 4), torch.ones(3), num_expected=3
    )
    assert chosen.tolist() == [1, 2, 0]


@each("option", ["k", "bias", "score_thresh", "nms_thresh"])
def test_an_illegal_option_is_named(option):
    with pytest.raises(ValueError, match=f"^{option} must be >= 0"):
        score_hlr_negatives(*random_negatives(0), num_expected=3, **{option: -0.1})
