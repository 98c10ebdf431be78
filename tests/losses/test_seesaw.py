"""Seesaw loss: published values, an independent reference, counts and decoding."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from focal_plugin.losses import SeesawLoss, seesaw_loss

from ..each import each

CASES = json.loads((Path(__file__).parent / "seesaw.json").read_text())
TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-6}
C = 5
COUNTS = torch.tensor([9000.0, 700.0, 50.0, 3.0, 0.0, 1e6])


def random_rois(dtype=torch.float64, scale=3.0, size=60):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(size, C + 2, generator=generator).to(dtype) * scale
    return logits.requires_grad_(), torch.randint(-1, C + 1, (size,), generator=generator)


def loss_by_loops(logits, labels, counts, p, q, eps):
    """Compute both means with the ratios of the paper, in float64."""
    classes, objectness = [], []
    for x, y in zip(logits, labels.tolist(), strict=True):
        if y == -1:
            continue
        objectness.append(-torch.log_softmax(x[C:], 0)[int(y == C)])
        if y == C:
            continue
        sigma = torch.softmax(x[:C].detach(), 0)
        terms = []
        for j in range(C):
            n_j, n_y = max(counts[j].item(), 1), max(counts[y].item(), 1)
            mitigation = (n_j / n_y) ** p if n_j < n_y else 1
            ratio = (sigma[j] / sigma[y].clamp(min=eps)).item()
            factor = ratio**q if ratio > 1 and j != y else 1
            terms.append(x[j] + math.log((mitigation if j != y else 1) * factor))
        classes.append(-torch.log_softmax(torch.stack(terms), 0)[y])
    return torch.stack(classes).mean(), torch.stack(objectness).mean()


@each("case", CASES)
@each("dtype", [torch.float64, torch.float32])
def test_value_gradient_counts_and_scores_are_the_published_ones(case, dtype):
    inputs, options, expected = case["inputs"], case["options"], case["expected"]
    labels, before = torch.tensor(inputs["labels"]), torch.tensor(inputs["counts_before"])
    logits = torch.tensor(inputs["logits"], dtype=dtype, requires_grad=True)
    module = SeesawLoss(num_classes=len(before), **options).train()
    module.counts[:-1] = before
    near = {"rtol": TOLERANCES[dtype], "atol": TOLERANCES[dtype]}

    per_roi = module(logits, labels)
    assert module.counts[:-1].tolist() == expected["counts_after"]
    torch.testing.assert_close(
        per_roi.detach(), torch.tensor(sum(expected["per_roi_unreduced"])), rtol=2e-6, atol=2e-6
    )
    classes, objectness = seesaw_loss(logits, labels, module.counts, **options)
    (classes + objectness).backward()
    for ours, theirs in (
        (classes, expected["loss_classes"]),
        (objectness, expected["loss_objectness"]),
        (logits.grad, expected["gradient"]),
        (module.probabilities(logits), expected["scores"]),
    ):
        torch.testing.assert_close(ours.detach(), torch.tensor(theirs, dtype=dtype), **near)


@each(("p", "q", "eps"), [(0.8, 2.0, 1e-2), (0.0, 2.0, 0.3), (0.8, 0.0, 1e-2), (1.5, 0.5, 1.0)])
def test_equals_the_ratios_of_the_paper(p, q, eps):
    logits, labels = random_rois()
    ours = seesaw_loss(logits, labels, COUNTS, p=p, q=q, eps=eps)
    reference = loss_by_loops(logits, labels, COUNTS, p, q, eps)
    for loss, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (loss, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_without_both_factors_the_classes_are_cross_entropy():
    logits, labels = random_rois()
    is_object = (labels >= 0) & (labels < C)
    classes, _ = seesaw_loss(logits, labels, COUNTS, p=0.0, q=0.0)
    torch.testing.assert_close(classes, F.cross_entropy(logits[is_object, :C], labels[is_object]))


def test_a_frequent_class_pushes_a_rare_one_less_and_not_vice_versa():
    def gradient_of_other(label, q=0.0):
        logits = torch.zeros(1, 4, requires_grad=True)
        classes, _ = seesaw_loss(logits, torch.tensor([label]), torch.tensor([100.0, 1, 0]), q=q)
        return torch.autograd.grad(classes, logits)[0][0, 1 - label].item()

    assert gradient_of_other(0) < 0.05
    assert gradient_of_other(1) == pytest.approx(0.5)


def test_a_background_roi_moves_no_class_and_the_factors_have_no_gradient():
    logits, _ = random_rois(size=4)
    loss = sum(seesaw_loss(logits, torch.full((4,), C), COUNTS))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, :C] == 0).all()
    assert (gradient[:, C:] != 0).all()
    classes, _ = seesaw_loss(logits, torch.arange(4), COUNTS)
    (gradient,) = torch.autograd.grad(classes, logits)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(4).double())


def test_counts_of_the_classes_are_enough():
    logits, labels = random_rois()
    assert seesaw_loss(logits, labels, COUNTS) == seesaw_loss(logits, labels, COUNTS[:-1])


def test_one_class_has_no_class_term():
    classes, objectness = seesaw_loss(torch.randn(3, 3), torch.tensor([0, 1, 0]), torch.ones(2))
    assert classes == 0 < objectness


def test_nothing_to_sum_gives_two_differentiable_zeros():
    for labels in (torch.zeros(0).long(), torch.full((3,), -1)):
        logits = torch.full((len(labels), C + 2), math.nan, requires_grad=True)
        both = seesaw_loss(logits, labels, COUNTS)
        assert [loss.item() for loss in both] == [0, 0]
        sum(both).backward()
        assert (logits.grad == 0).all()
    logits, _ = random_rois()
    classes, objectness = seesaw_loss(logits, torch.full((60,), C), COUNTS)
    assert classes == 0 < objectness


def test_half_precision_is_computed_in_float32():
    logits, labels = random_rois(torch.bfloat16)
    ours, exact = (seesaw_loss(x, labels, COUNTS) for x in (logits, logits.float()))
    assert ours[0].dtype == torch.float32
    assert ours == exact


def test_the_counts_of_a_step_include_its_own_rois():
    logits, labels = random_rois()
    loss = SeesawLoss(num_classes=C).train()
    value = loss(logits, labels)
    assert loss.counts.tolist() == [(labels == label).sum() for label in range(C + 1)]
    assert value == loss.eval()(logits, labels)
    assert value != SeesawLoss(num_classes=C).eval()(logits, labels)


def test_counts_are_exact_beyond_float32():
    loss = SeesawLoss(num_classes=C).train()
    loss.counts[:] = 2**24
    loss(torch.zeros(1, C + 2), torch.tensor([0]))
    assert loss.counts[0] == 2**24 + 1


def test_reduction_mean_is_the_sum_of_the_means_and_has_its_own_normalizer():
    logits, labels = random_rois(torch.float32)
    loss = SeesawLoss(num_classes=C, reduction="mean").eval()
    loss.counts[:] = COUNTS
    assert loss.own_normalizer
    assert not SeesawLoss(num_classes=C).own_normalizer
    torch.testing.assert_close(loss(logits, labels), sum(seesaw_loss(logits, labels, COUNTS)))


def test_probabilities_sum_to_one_and_a_prior_sets_that_of_an_object():
    loss = SeesawLoss(num_classes=C)
    probabilities = loss.probabilities(random_rois()[0])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(60).double())
    (fresh,) = loss.probabilities(torch.tensor([loss.prior_biases(C, 0.1)]))
    torch.testing.assert_close(fresh, torch.tensor([0.1 / C] * C + [0.9]))


@each(
    ("call", "message"),
    [
        (lambda: seesaw_loss(torch.zeros(2, 2), torch.zeros(2).long(), COUNTS), "C >= 1"),
        (lambda: seesaw_loss(torch.zeros(2, 6), torch.zeros(2).long(), COUNTS), r"be \(5,\), got"),
        (lambda: SeesawLoss(num_classes=C)(torch.zeros(2, 6), torch.ones(2).long()), "NUM_CLASSES"),
    ],
)
def test_what_does_not_match_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
