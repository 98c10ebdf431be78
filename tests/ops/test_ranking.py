"""Sums over all negatives, and their gradient, by every implementation that this machine has."""

import pytest
import torch

from focal_plugin.ops import chunks
from focal_plugin.ops.levels import Levels
from focal_plugin.ops.ramps import Ramps
from focal_plugin.ops.ranking import Ranking

from .test_dense_loss import LAYOUTS, every_implementation
from .test_dense_loss import batch as batch_without_gradient

DELTAS = [1.0, 0.3, 0.0]


def batch(*args, **options):
    logits, labels, _ = batch_without_gradient(*args, **options)
    return logits.requires_grad_(), labels


def ramp(x, delta):
    return (x / (2 * delta) + 0.5).clamp(0, 1) if delta else (x >= 0).double()


def ranked(logits, labels, delta, impl):
    return Ranking(Levels([logits], [labels]), delta=delta, impl=impl)


def pairs(logits, labels):
    """Return the mask of the negatives, and the positives in order of their anchors."""
    positive = labels.unsqueeze(-1) == torch.arange(logits.shape[-1])
    negative = (labels >= 0).unsqueeze(-1) & ~positive
    return negative, logits.detach().double()[positive]


def weights_of(ranking):
    """Return weights of the positives that depend on their score only."""
    return ranking.scores.sigmoid()


@every_implementation
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
def test_counts_and_gradients_are_those_of_all_pairs(impl, layout, dtype):
    logits, labels = batch(layout, dtype=dtype, scale=1.0)
    negative, scores = pairs(logits, labels)
    x = logits.detach().double()
    for delta in DELTAS:
        ranking = ranked(logits, labels, delta, impl)
        assert torch.equal(ranking.scores.sort().values, scores.sort().values)
        above = ramp(x[negative] - ranking.scores.unsqueeze(1), delta)
        torch.testing.assert_close(ranking.false_positives, above.sum(1), rtol=1e-12, atol=1e-12)
        weights = weights_of(ranking)
        loss = ranking.loss(torch.ones_like(weights), weights, -weights)
        assert loss == 1
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.dtype == dtype
        expected = torch.zeros_like(x)
        expected[negative] = weights @ above / len(scores)
        positive = labels.unsqueeze(-1) == torch.arange(logits.shape[-1])
        expected[positive] = -scores.sigmoid() / len(scores)
        torch.testing.assert_close(gradient, expected.to(dtype))
        assert (gradient[labels == -1] == 0).all()


@every_implementation
@pytest.mark.parametrize(
    ("anchors", "num_classes"), [((1, 1, 1, 1), 1), ((1, 3, 2, 1), 1), ((2, 1, 1, 2), 3)]
)
def test_small_shapes_work(impl, anchors, num_classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*anchors, num_classes, generator=generator).requires_grad_()
    labels = torch.arange(logits[..., 0].numel()).view(anchors) % (num_classes + 1)
    ranking = ranked(logits, labels, 1.0, impl)
    negative, _ = pairs(logits, labels)
    above = ramp(logits.detach().double()[negative] - ranking.scores.unsqueeze(1), 1.0)
    torch.testing.assert_close(ranking.false_positives, above.sum(1))


@every_implementation
@pytest.mark.parametrize("label", [-1, 5])
def test_without_a_positive_there_is_nothing_to_rank(impl, label):
    logits, labels = batch()
    ranking = ranked(logits, torch.full_like(labels, label), 1.0, impl)
    nothing = torch.zeros(0, dtype=torch.float64)
    loss = ranking.loss(nothing, nothing, nothing)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0
    assert (gradient == 0).all()
    assert len(ranking.sum_of_higher()) == 0


@every_implementation
def test_a_nan_shows_and_one_of_an_ignored_anchor_does_not(impl):
    logits, labels = batch()
    clean = ranked(logits, labels, 1.0, impl).false_positives
    for label, shows in ((-1, False), (5, True)):
        broken = logits.detach().clone()
        broken[labels == label] = torch.nan
        found = ranked(broken, labels, 1.0, impl).false_positives
        assert found.isnan().all() if shows else torch.equal(found, clean)


@every_implementation
def test_infinite_and_huge_logits_do_not_crash(impl):
    for value in (torch.inf, -torch.inf, torch.nan, 1e30, -1e30):
        logits, labels = batch()
        logits = logits.detach().clone()
        logits[..., ::2] = value
        logits.requires_grad_()
        ranking = ranked(logits, labels, 1.0, impl)
        weights = torch.ones_like(ranking.scores)
        torch.autograd.grad(ranking.loss(weights, weights, -weights), logits)


@every_implementation
def test_a_few_high_positives_keep_their_digits_among_many_low_negatives(impl):
    """A sum of large numbers, from the bottom, would lose the single negative at the top."""
    logits = torch.full((200_000, 1), -1e4, dtype=torch.float64)
    labels = torch.ones(200_000, dtype=torch.int64)
    logits[:3, 0] = torch.tensor([0.25, 0.0, -1e4])
    labels[1:3] = 0
    found = ranked(logits, labels, 1.0, impl).false_positives
    assert found[0].item() == 0.625
    assert found[1].item() == 1 + (200_000 - 3) / 2


@every_implementation
def test_many_equal_positives_and_negatives_count_half(impl):
    logits = torch.zeros(40, 50, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(40) % 50
    found = ranked(logits, labels, 1.0, impl)
    assert (found.false_positives == 40 * 49 / 2).all()
    assert (found.sum_of_higher() == 20).all()


def test_cpp_has_the_same_bits_for_any_number_of_threads():
    if torch.get_num_threads() != 1:
        pytest.skip("the test sets the number of threads")
    results = []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        try:
            logits, labels = batch(anchors=(2, 40, 40, 9), num_classes=9)
            ranking = ranked(logits, labels, 1.0, "auto")
            weights = weights_of(ranking)
            loss = ranking.loss(weights, weights, weights)
            results.append((ranking.false_positives, torch.autograd.grad(loss, logits)[0]))
        finally:
            torch.set_num_threads(1)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_the_size_of_a_chunk_does_not_matter(monkeypatch):
    logits, labels = batch()
    expected = ranked(logits, labels, 1.0, "eager").false_positives
    for size in (1, 40, 300):
        monkeypatch.setattr(chunks, "LOGITS_PER_CHUNK", size)
        found = ranked(logits, labels, 1.0, "eager").false_positives
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


def test_numbers_of_positives_come_in_the_order_of_their_scores():
    for layout in LAYOUTS:
        logits, labels = batch(layout)
        levels = Levels([logits, logits], [labels, labels])
        scores = logits.gather(-1, labels.clamp(0, 4).unsqueeze(-1)).squeeze(-1)
        assert torch.equal(levels.of_positives([scores, scores]).double(), levels.scores)


def test_weighted_sums_and_lines_agree_with_all_pairs():
    generator = torch.Generator().manual_seed(1)
    centers, x, weights = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    centers[10:20] = centers[:10]
    x[:10] = centers[:10]
    weights = weights.abs()
    for delta in DELTAS:
        ramps = Ramps(centers, delta)
        matrix = ramp(x - centers.unsqueeze(1), delta)
        torch.testing.assert_close(ramps.sums(ramps.tally(x, weights)), matrix @ weights)
        line = ramps.line(weights)
        bucket = torch.bucketize(x, ramps.edges, right=True)
        heights = line.heights[bucket] + line.slopes[bucket] * (x - ramps.left[bucket])
        torch.testing.assert_close(heights, weights @ matrix)


def test_an_implementation_that_is_not_available_is_refused():
    logits, labels = batch()
    for impl, message in (("triton", "no kernel for rankings"), ("cuda", "must be one of")):
        with pytest.raises(ValueError, match=message):
            ranked(logits, labels, 1.0, impl)
