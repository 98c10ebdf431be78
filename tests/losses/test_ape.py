import math

import torch
from torch.nn import functional as F

from focal_plugin.losses import APELoss, ape, ape_loss

from ..each import each
from .ranking_reference import (
    assert_case,
    assert_close,
    cases,
    elements,
    gradient_of,
    inputs,
    random_ranking,
)


def reference(logits, labels, quality, scale):
    """Compute the loss with autograd, one positive at a time."""
    positives, negatives = elements(logits, labels)
    losses = []
    for anchor, k in positives:
        x, t = logits[anchor, k], quality[anchor]
        near = x.detach() - 4 / scale
        lower = [logits[at] for at in positives if quality[at[0]] < t and logits[at] > near]
        wrong = [logits[at] for at in negatives if logits[at] > near] + lower
        right = [logits[at] for at in positives if quality[at[0]] >= t and logits[at] > near]
        if wrong:
            gaps = scale * (torch.stack(wrong) - x)
            others = scale * (torch.stack(right) - x)
            rank = (gaps.sigmoid().sum() + others.sigmoid().sum()).detach()
            losses.append(t / rank * F.softplus(gaps, threshold=40).sum())
    return torch.stack(losses).mean() / scale


@cases("ape")
def test_equals_the_published_case(case, dtype):
    logits, labels, quality = inputs(case, dtype)
    if dtype == torch.float32:
        # A logit at the end of a positive's reach is on its other side in float32
        logits = (logits.detach() - torch.tensor([0.0, 1e-3, 0.0])).requires_grad_()
        expected = reference(logits.double(), labels, quality.double(), case["options"]["scale"])
        loss = ape_loss(logits, labels, quality, **case["options"])
        torch.testing.assert_close(loss.double(), expected, rtol=0, atol=2e-6)
        return
    loss = ape_loss(logits, labels, quality, **case["options"])
    assert_case(loss, case["expected"]["value"])
    assert_case(gradient_of(loss, logits), case["expected"]["gradient"])


@each("scale", [8.0, 3.0])
@each("seed", range(3))
def test_equals_autograd_of_the_formula(scale, seed, monkeypatch):
    logits, labels, quality = random_ranking(seed)
    monkeypatch.setattr(ape, "PAIRS_PER_CHUNK", 100)
    loss = ape_loss(logits, labels, quality, scale=scale)
    expected = reference(logits, labels, quality, scale)
    assert_close(loss, expected.item(), digits=12)
    assert_close(gradient_of(loss, logits), gradient_of(expected, logits), digits=12)


def test_only_the_highest_negatives_count():
    logits, labels, quality = random_ranking(0)
    positives, negatives = elements(logits, labels)
    order = sorted(negatives, key=lambda at: -logits[at].item())
    low = logits.detach().clone()
    for at in order[7:]:
        low[at] = -math.inf
    loss = ape_loss(logits, labels, quality, top_k=7)
    assert_close(loss, ape_loss(low, labels, quality).item(), digits=14)
    gradient = gradient_of(loss, logits)
    assert all(gradient[at] == 0 for at in order[7:])
    assert positives


def test_levels_are_one_batch():
    logits, labels, quality = random_ranking(1)
    levels = [[x[:11], x[11:]] for x in (logits, labels, quality)]
    loss = APELoss(top_k=9).of_levels(levels[0], levels[1], quality=levels[2], scale=0.5)
    expected = ape_loss(logits, labels, quality, top_k=9) / 2
    assert_close(loss, expected.item(), digits=14)
    assert_close(gradient_of(loss, logits), gradient_of(expected, logits), digits=14)


def test_the_gradient_sums_to_zero():
    logits, labels, quality = random_ranking(2)
    gradient = gradient_of(ape_loss(logits, labels, quality), logits)
    assert_close(gradient.sum(), 0.0, digits=14)
