import math

import pytest
import torch

from focal_plugin.losses import DRLoss, dr_loss
from focal_plugin.ops import chunks

from ..each import each
from .ranking_reference import (
    assert_case,
    assert_close,
    cases,
    gradient_of,
    inputs,
    random_ranking,
)

LAMBDA_NEG = 0.1 / math.log(3.5)
OPTIONS = [
    {},
    {"lambda_pos": 0.3, "lambda_neg": 0.02, "scale": 2.0, "tau": 1.5, "margin": -0.25},
    {"lambda_neg": 1e-3},
]


def reference(
    logits, labels, lambda_pos=1.0, lambda_neg=LAMBDA_NEG, scale=6.0, tau=4.0, margin=0.5
):
    """Compute the loss with autograd in float64, from copies of all logits."""
    kept = labels >= 0
    is_positive = labels[kept].unsqueeze(1) == torch.arange(logits.shape[1])
    p = logits[kept].double().sigmoid()
    pos, neg = p[is_positive], p[~is_positive]
    p_neg = ((neg / lambda_neg).softmax(0) * neg).sum()
    p_pos = ((-pos / lambda_pos).softmax(0) * pos).sum() if len(pos) else 1.0
    return tau / scale * torch.nn.functional.softplus(scale * (p_neg - p_pos + margin))


@cases("dr")
def test_equals_the_published_cases(case, dtype):
    logits, labels = inputs(case, dtype)
    loss = dr_loss(logits, labels, **case["options"])
    assert loss.dtype == dtype
    assert_case(loss, case["expected"]["value"])
    assert_case(gradient_of(loss, logits), case["expected"]["gradient"])


@each("options", OPTIONS)
@each("seed", range(3))
def test_equals_autograd_of_the_formula(options, seed):
    logits, labels, _ = random_ranking(seed)
    loss, expected = dr_loss(logits, labels, **options), reference(logits, labels, **options)
    assert_close(loss, expected.item(), digits=12)
    assert_close(gradient_of(loss, logits), gradient_of(expected, logits), digits=12)


def test_gradcheck():
    logits, labels, _ = random_ranking(0, num_anchors=8)
    assert torch.autograd.gradcheck(lambda x: dr_loss(x, labels), logits)


def test_it_cannot_be_differentiated_twice():
    logits, labels, _ = random_ranking(0)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(dr_loss(logits, labels), logits, create_graph=True)


def test_the_size_of_a_chunk_and_the_levels_do_not_matter(monkeypatch):
    logits, labels, _ = random_ranking(1, num_anchors=60)
    expected = dr_loss(logits, labels)
    monkeypatch.setattr(chunks, "LOGITS_PER_CHUNK", 16)
    loss = DRLoss().of_levels([logits[:25], logits[25:]], [labels[:25], labels[25:]], scale=0.5)
    assert_close(loss, expected.item() / 2, digits=14)
    assert_close(gradient_of(loss, logits), gradient_of(expected, logits) / 2, digits=14)


@each("prior", [0.01, 0.5])
def test_a_fresh_head_has_the_same_loss_for_every_prior(prior):
    logits = torch.full((3000, 10), math.log(prior / (1 - prior)))
    labels = torch.full((3000,), 10)
    labels[:5] = 3
    assert dr_loss(logits, labels).item() == pytest.approx(4 * math.log1p(math.exp(3)) / 6)


def test_the_gradient_of_negatives_grows_with_the_prior():
    norms = []
    for prior in (0.01, 0.5):
        logits = torch.full((3000, 10), math.log(prior / (1 - prior)), requires_grad=True)
        labels = torch.full((3000,), 10)
        labels[:5] = 3
        norms.append(gradient_of(dr_loss(logits, labels), logits)[5:].abs().sum().item())
    assert norms[0] == pytest.approx(0.0377, rel=5e-3)
    assert norms[1] == pytest.approx(0.953, rel=5e-3)


def test_positives_alone_are_compared_with_a_probability_of_zero():
    logits = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    loss = dr_loss(logits, torch.zeros(2, dtype=torch.int64))
    assert_close(loss, 4 * math.log(2) / 6)
    assert (gradient_of(loss, logits) < 0).all()


def test_a_nan_shows():
    logits, labels, _ = random_ranking(0)
    has_class = (labels >= 0) & (labels < 3)
    for label in (3, labels[has_class][0].item()):
        broken = logits.detach().clone()
        broken[(labels == label).nonzero()[0], 0] = torch.nan
        assert dr_loss(broken, labels).isnan()
