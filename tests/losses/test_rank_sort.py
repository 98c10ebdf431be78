import torch

from focal_plugin.losses import rank_sort_loss
from focal_plugin.ops import ranking

from ..each import each
from .ranking_reference import (
    assert_case,
    assert_close,
    cases,
    gradient_of,
    inputs,
    random_ranking,
    rank_and_sort,
)


@cases("rank_sort")
def test_equals_the_published_cases(case, dtype):
    logits, labels, quality = inputs(case, dtype)
    loss = rank_sort_loss(logits, labels, quality, **case["options"])
    assert loss.dtype == dtype
    assert_case(loss, case["expected"]["value"])
    assert_case(gradient_of(loss, logits), case["expected"]["gradient"])


@each("delta", [0.5, 1.0, 0.1, 0.0])
@each("ties", [False, True])
@each("seed", range(3))
def test_equals_loops_over_all_pairs(delta, ties, seed):
    logits, labels, quality = random_ranking(seed, ties=ties)
    of_ranking, of_sorting, gradient = rank_and_sort(logits, labels, quality, delta)
    loss = rank_sort_loss(logits, labels, quality, delta=delta)
    assert_close(loss, of_ranking + of_sorting, digits=12)
    assert_close(gradient_of(loss, logits), gradient, digits=12)


def test_the_number_of_pairs_in_memory_does_not_matter(monkeypatch):
    logits, labels, quality = random_ranking(4, num_anchors=60)
    expected = gradient_of(rank_sort_loss(logits, labels, quality), logits)
    monkeypatch.setattr(ranking, "PAIRS_PER_CHUNK", 70)
    assert_close(gradient_of(rank_sort_loss(logits, labels, quality), logits), expected, digits=14)


@each("seed", range(3))
def test_the_gradient_sums_to_zero_and_negatives_get_the_ranking_error(seed):
    logits, labels, quality = random_ranking(seed)
    of_ranking, of_sorting, _ = rank_and_sort(logits, labels, quality, 0.5)
    gradient = gradient_of(rank_sort_loss(logits, labels, quality), logits)
    assert_close(gradient.sum(), 0.0, digits=14)
    is_positive = labels.unsqueeze(1) == torch.arange(3)
    assert_close(gradient[~is_positive].sum(), of_ranking, digits=13)
    assert gradient.abs().sum() <= 2 * (of_ranking + of_sorting) + 1e-12


def test_sorted_positives_above_all_negatives_have_no_loss():
    logits = torch.tensor([[9.0], [6.0], [3.0], [0.0]], requires_grad=True)
    quality = torch.tensor([0.9, 0.8, 0.7, 0.0])
    loss = rank_sort_loss(logits, torch.tensor([0, 0, 0, 1]), quality)
    assert loss == 0
    assert (gradient_of(loss, logits) == 0).all()


def test_positives_in_the_wrong_order_swap_their_gradients_alone():
    logits = torch.tensor([[6.0], [9.0], [0.0]], requires_grad=True)
    labels, quality = torch.tensor([0, 0, 1]), torch.tensor([0.8, 0.4, 0.0])
    gradient = gradient_of(rank_sort_loss(logits, labels, quality), logits).squeeze(1)
    assert gradient[0] < 0 < gradient[1]
    assert gradient[2] == 0
    assert gradient.sum() == 0


def test_a_positive_of_quality_zero_stays_a_positive():
    logits, labels, quality = random_ranking(0)
    gradient = gradient_of(rank_sort_loss(logits, labels, torch.zeros_like(quality)), logits)
    expected = rank_and_sort(logits, labels, torch.zeros_like(quality), 0.5)
    assert_close(gradient, expected[2], digits=12)
    is_positive = labels.unsqueeze(1) == torch.arange(3)
    assert (gradient[is_positive] < 0).all()
