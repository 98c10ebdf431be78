"""Analysis of a loss, against loops in float64."""

import copy
import random

import numpy as np
import pytest
import torch

from focal_plugin.diagnostics.analysis import (
    EASY_PROBABILITY,
    GRADIENT_EDGES,
    add_tallies,
    tally_anchors,
    view_anchors,
)
from focal_plugin.losses import (
    CLS_LOSS_REGISTRY,
    ALRPLoss,
    EqualizationLossV2,
    EqualizedFocalLoss,
    GHMLoss,
    QualityFocalLoss,
    SigmoidCrossEntropyLoss,
    SigmoidFocalLoss,
    SoftmaxCrossEntropyLoss,
)

from ..each import each

K = 3
SIZES = [6, 4]
DIVISORS = torch.tensor([7.0])


def batch(*, seed=0, columns=K):
    """Return two images with two levels, and every kind of label on each level."""
    generator = torch.Generator().manual_seed(seed)
    logits = [4 * torch.randn(2, size, columns, generator=generator) - 2 for size in SIZES]
    labels = torch.tensor([[0, K, K, -1, 2, K, K, 1, K, -1], [K, K, K, K, 1, -1, K, K, K, 0]])
    return logits, labels


def mined(labels):
    """Drop a positive and two negatives."""
    kept = labels.clone()
    kept[0, 0] = kept[0, 1] = kept[1, 6] = -1
    return kept


def tally_of(cls_loss, logits, labels, kept, *, divisors=DIVISORS, **box):
    view = view_anchors(cls_loss, logits, kept, divisors=divisors)
    return tally_anchors(view, labels, kept, sizes=SIZES, **box)


def elements():
    """Yield level, image, anchor and label of each anchor."""
    for image in range(2):
        for anchor in range(sum(SIZES)):
            yield int(anchor >= SIZES[0]), image, anchor


def brute_force(logits, labels, kept, divisor):
    """Sum the cross entropy by level, one logit at a time in float64."""
    joined = torch.cat(logits, 1).double().numpy()
    names = ["loss_pos", "loss_neg", "gradient_pos", "gradient_neg"]
    names += ["easy_num", "easy_divided", "easy_gradient", "num_pos", "num_neg"]
    names += ["kept_pos", "kept_neg"]
    sums = {name: np.zeros(2) for name in names}
    for level, image, anchor in elements():
        label = labels[image, anchor].item()
        if label == -1:
            continue
        side = "neg" if label == K else "pos"
        sums[f"num_{side}"][level] += 1
        probabilities = 1 / (1 + np.exp(-joined[image, anchor]))
        easy = label == K and all(p < 0.1 for p in probabilities)
        sums["easy_num"][level] += easy
        if kept[image, anchor] == -1:
            continue
        sums[f"kept_{side}"][level] += 1
        for k, p in enumerate(probabilities):
            loss = -np.log(p if k == label else 1 - p)
            gradient = abs(p - (k == label)) / divisor
            sums[f"loss_{side}"][level] += loss
            sums[f"gradient_{side}"][level] += gradient
            sums["easy_divided"][level] += easy * loss / divisor
            sums["easy_gradient"][level] += easy * gradient
    return sums


def test_sums_are_those_of_loops_over_every_logit():
    logits, labels = batch()
    kept = mined(labels)
    tally = tally_of(SigmoidCrossEntropyLoss(), logits, labels, kept)
    expected = brute_force(logits, labels, kept, 7.0)
    for name, values in expected.items():
        np.testing.assert_allclose(tally.by_level[name], values, rtol=1e-5, err_msg=name)
    assert 0 < expected["easy_num"].sum() < expected["num_neg"].sum()
    assert EASY_PROBABILITY == 0.1


def test_shares_are_relative_to_positives_and_negatives():
    logits, labels = batch()
    tally = tally_of(SigmoidCrossEntropyLoss(), logits, labels, labels)
    sums = {name: x.sum() for name, x in brute_force(logits, labels, labels, 7.0).items()}
    loss = (sums["loss_pos"] + sums["loss_neg"]) / 7
    gradient = sums["gradient_pos"] + sums["gradient_neg"]
    assert tally.divided == pytest.approx(loss, rel=1e-5)
    assert tally.easy_share == pytest.approx(sums["easy_num"] / sums["num_neg"])
    assert tally.easy_loss_share == pytest.approx(sums["easy_divided"] / loss, rel=1e-5)
    assert tally.easy_gradient_share == pytest.approx(sums["easy_gradient"] / gradient, rel=1e-5)


def test_shares_of_nothing_are_zero():
    logits, labels = batch()
    tally = tally_of(SigmoidCrossEntropyLoss(), logits, labels, torch.full_like(labels, -1))
    assert tally.easy_loss_share == tally.easy_gradient_share == 0
    nothing = torch.full_like(labels, -1)
    assert tally_of(SigmoidCrossEntropyLoss(), logits, nothing, nothing).easy_share == 0


@each("name", ["APLoss", "ALRPLoss", "RankSortLoss", "DRLoss", "APELoss"])
def test_a_loss_without_rows_is_distributed_by_its_gradient(name):
    logits, labels = batch()
    loss = CLS_LOSS_REGISTRY.get(name)()
    quality = torch.linspace(0.1, 0.9, labels.numel()).view(labels.shape)
    view = view_anchors(loss, logits, labels, divisors=DIVISORS, quality=quality)
    joined = torch.cat(logits, 1).requires_grad_()
    total = loss(joined, labels, quality=quality)
    (gradient,) = torch.autograd.grad(total, joined)
    norms = gradient.abs().sum(-1)
    torch.testing.assert_close(view.gradient, gradient.abs())
    torch.testing.assert_close(view.divided.sum(), total.detach())
    torch.testing.assert_close(view.loss, total.detach() * norms / norms.sum())
    assert (view.loss[labels == -1] == 0).all()


def test_box_losses_reach_a_loss_that_weighs_them():
    logits, labels = batch()
    box_loss = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0))
    views = [
        view_anchors(ALRPLoss(), logits, labels, divisors=DIVISORS, box_loss=x)
        for x in (None, box_loss)
    ]
    torch.testing.assert_close(views[0].divided.sum(), views[1].divided.sum())
    assert views[1].gradient.sum() > 1.01 * views[0].gradient.sum()


def test_a_sum_that_is_not_normalized_is_divided():
    class Total(SigmoidCrossEntropyLoss):
        has_rows = False

    logits, labels = batch()
    rows = view_anchors(SigmoidCrossEntropyLoss(), logits, labels, divisors=DIVISORS)
    view = view_anchors(Total(), logits, labels, divisors=DIVISORS)
    torch.testing.assert_close(view.gradient, rows.gradient)
    torch.testing.assert_close(view.loss.sum(), rows.loss.sum())
    torch.testing.assert_close(view.divided.sum(), rows.divided.sum())


def test_histogram_counts_each_logit_once_by_whether_the_label_names_it():
    logits, labels = batch()
    tally = tally_of(SigmoidCrossEntropyLoss(), logits, labels, labels)
    probabilities = torch.cat(logits, 1).double().sigmoid().numpy()
    norms = {True: [], False: []}
    for _, image, anchor in elements():
        label = labels[image, anchor].item()
        for k in range(K):
            if label >= 0:
                norms[k == label].append(abs(probabilities[image, anchor, k] - (k == label)) / 7)
    for counts, key in ((tally.histogram_pos, True), (tally.histogram_neg, False)):
        expected, _ = np.histogram(norms[key], GRADIENT_EDGES)
        np.testing.assert_array_equal(counts, expected)
    assert tally.histogram_pos.sum() == (labels[labels >= 0] < K).sum()
    assert (tally.histogram_pos + tally.histogram_neg).sum() == (labels >= 0).sum() * K


def test_the_first_bin_has_the_zeros_and_the_last_all_larger_norms():
    logits = [torch.tensor([[[0.0] * K, [-100.0] * K]] * 2)]
    labels = torch.full((2, 2), K)
    kept = labels.clone()
    kept[:, 0] = -1  # what mining drops has no gradient
    view = view_anchors(SigmoidCrossEntropyLoss(), logits, kept, divisors=torch.ones(1))
    tally = tally_anchors(view, labels, kept, sizes=[2])
    assert tally.histogram_neg[0] == tally.histogram_neg.sum() == 4 * K
    far = view._replace(gradient=torch.full_like(view.gradient, 1e3))
    assert tally_anchors(far, labels, kept, sizes=[2]).histogram_neg[-1] == 4 * K


def test_tallies_of_two_halves_add_up_to_that_of_the_whole():
    logits, labels = batch()
    cls_loss = SigmoidFocalLoss()
    halves = [
        tally_of(cls_loss, [x[i : i + 1] for x in logits], labels[i : i + 1], labels[i : i + 1])
        for i in range(2)
    ]
    whole, both = tally_of(cls_loss, logits, labels, labels), add_tallies(halves)
    for name, values in whole.by_level.items():
        np.testing.assert_allclose(both.by_level[name], values, rtol=1e-6, err_msg=name)
    np.testing.assert_array_equal(both.histogram_neg, whole.histogram_neg)
    np.testing.assert_array_equal(both.histogram_pos, whole.histogram_pos)
    assert both.batches == 2
    with pytest.raises(ValueError, match="no tally"):
        add_tallies([])


@pytest.mark.parametrize(("loss", "total"), [("ce", 8.04e3), ("fl", 0.603)])
def test_audit_at_the_prior_gives_the_sums_of_the_paper(loss, total):
    # 10k negatives x 80 classes at p = .01: -log(.99) each, and .75 * .01^2 of that. The paper has
    # 100k negatives, ten times as many.
    prior = torch.tensor(0.01).logit().item()
    logits = [torch.full((1, 10_000, 80), prior)]
    labels = torch.full((1, 10_000), 80)
    cls_loss = {"ce": SigmoidCrossEntropyLoss, "fl": SigmoidFocalLoss}[loss]()
    view = view_anchors(cls_loss, logits, labels, divisors=torch.ones(1))
    tally = tally_anchors(view, labels, labels, sizes=[10_000])
    assert tally.total("loss_neg") == pytest.approx(total, rel=1e-3)
    assert tally.easy_loss_share == tally.easy_share == 1
    assert tally.total("probability") / 10_000 == pytest.approx(0.01, rel=1e-5)


def test_negative_is_easy_only_if_every_class_is_improbable():
    logits = [torch.tensor([[[0.09, 0.09, 0.09], [0.12, 0.01, 0.01]]]).logit()]
    labels = torch.full((1, 2), K)
    view = view_anchors(SigmoidCrossEntropyLoss(), logits, labels, divisors=torch.ones(1))
    assert tally_anchors(view, labels, labels, sizes=[2]).total("easy_num") == 1


def test_divisors_of_each_image_divide_its_own_anchors():
    logits, labels = batch()
    divisors = torch.tensor([2.0, 5.0])
    view = view_anchors(SigmoidCrossEntropyLoss(), logits, labels, divisors=divisors)
    assert torch.equal(view.divided, view.loss / torch.tensor([[2.0], [5.0]]))
    plain = view_anchors(SigmoidCrossEntropyLoss(), logits, labels, divisors=torch.ones(1))
    expected = plain.gradient / torch.tensor([2.0, 5.0]).view(2, 1, 1)
    torch.testing.assert_close(view.gradient, expected)


def test_normalized_loss_is_not_divided():
    logits, labels = batch()
    view = view_anchors(GHMLoss(), logits, labels, divisors=DIVISORS)
    expected = GHMLoss()(torch.cat(logits, 1), labels)
    torch.testing.assert_close(view.divided.sum(), expected)
    assert torch.equal(view.divided, view.loss)


def test_softmax_has_neither_gradient_nor_probability_of_its_background_logit():
    logits, labels = batch(columns=K)
    padded = [torch.nn.functional.pad(x, (0, 1)) for x in logits]
    view = view_anchors(SoftmaxCrossEntropyLoss(), padded, labels, divisors=torch.ones(1))
    p = torch.cat(padded, 1).double().softmax(-1)[..., :K]
    one_hot = torch.nn.functional.one_hot(labels.clamp(min=0), K + 1)[..., :K]
    expected = (p - one_hot).abs() * (labels >= 0).unsqueeze(-1)
    torch.testing.assert_close(view.gradient.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(view.probability.double(), p, rtol=1e-5, atol=1e-6)


def test_quality_reaches_the_loss_of_its_own_level():
    logits, labels = batch()
    quality = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1))
    view = view_anchors(QualityFocalLoss(), logits, labels, divisors=DIVISORS, quality=quality)
    expected = QualityFocalLoss()(torch.cat(logits, 1), labels, quality=quality)
    torch.testing.assert_close(view.loss.sum(), expected)


def test_box_loss_is_split_by_level_and_divided():
    logits, labels = batch()
    box_loss = torch.arange(20.0).view(2, 10)
    box = {"box_loss": box_loss, "box_divisors": torch.tensor([4.0])}
    tally = tally_of(SigmoidFocalLoss(), logits, labels, labels, **box)
    expected = [box_loss[:, :6].sum().item(), box_loss[:, 6:].sum().item()]
    assert tally.by_level["box_loss"].tolist() == expected
    assert tally.by_level["box_divided"].tolist() == [x / 4 for x in expected]


def test_half_precision_does_not_underflow():
    logits, labels = batch()
    view = view_anchors(
        SigmoidCrossEntropyLoss(),
        [torch.full_like(x, -10.0).half() for x in logits],
        labels,
        divisors=torch.tensor([1e6]),
    )
    norms = view.gradient[labels == K]
    expected = torch.full_like(norms, 4.54e-11, dtype=torch.float32)  # 0 in half precision
    torch.testing.assert_close(norms, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "cls_loss", [GHMLoss(), EqualizedFocalLoss(num_classes=K), EqualizationLossV2(num_classes=K)]
)
def test_an_analysis_does_not_change_the_loss(cls_loss):
    logits, labels = batch()
    logits = [x.requires_grad_() for x in logits]
    cls_loss.train()
    cls_loss(torch.cat(logits, 1), labels)  # a state worth keeping
    before = copy.deepcopy(cls_loss.state_dict())
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    view_anchors(cls_loss, logits, labels, divisors=DIVISORS)
    for name, value in cls_loss.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.random.get_state()[1].tolist() == generators[1]
    assert random.getstate() == generators[2]
    assert all(x.grad is None for x in logits)
