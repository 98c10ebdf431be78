import pytest
import torch

from focal_plugin.losses import ALRPLoss, alrp_loss

from ..each import each
from .ranking_reference import (
    assert_case,
    assert_close,
    cases,
    gradient_of,
    inputs,
    localization_recall_precision,
    random_ranking,
)


@cases("alrp")
def test_equals_the_published_cases(case, dtype):
    logits, labels, box_loss = inputs(case, dtype)
    box_loss.requires_grad_()
    classification, localization = alrp_loss(logits, labels, box_loss, **case["options"])
    assert classification.dtype == localization.dtype == dtype
    expected = case["expected"]
    assert_case(classification, expected["cls_value"])
    assert_case(gradient_of(classification, logits), expected["cls_gradient"])
    assert_case(localization, expected["loc_value"])
    of_boxes = gradient_of(localization, box_loss)
    assert_case(of_boxes, expected["loc_gradient_wrt_box_loss"])


@each("delta", [1.0, 0.25, 0.0])
@each("ties", [False, True])
@each("seed", range(3))
def test_equals_loops_over_all_pairs(delta, ties, seed):
    logits, labels, box_loss = random_ranking(seed, ties=ties)
    box_loss.requires_grad_()
    expected = localization_recall_precision(logits, labels, box_loss, delta)
    classification, localization = alrp_loss(logits, labels, box_loss, delta=delta)
    found = (
        classification,
        localization,
        gradient_of(classification, logits),
        gradient_of(localization, box_loss),
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, digits=12)


def test_the_localization_loss_has_no_gradient_to_the_logits_and_the_boxes_none_of_the_ranking():
    logits, labels, box_loss = random_ranking(0)
    box_loss.requires_grad_()
    classification, localization = alrp_loss(logits, labels, box_loss)
    for loss, tensor in ((localization, logits), (classification, box_loss)):
        assert torch.autograd.grad(loss, tensor, retain_graph=True, allow_unused=True)[0] is None


@each("seed", range(3))
def test_the_gradient_sums_to_zero(seed):
    logits, labels, box_loss = random_ranking(seed)
    classification, _ = alrp_loss(logits, labels, box_loss)
    assert_close(gradient_of(classification, logits).sum(), 0.0, digits=14)


def test_a_positive_with_few_false_positives_has_no_gradient():
    logits = torch.tensor([[0.0], [-0.999]], dtype=torch.float64, requires_grad=True)
    labels, boxes = torch.tensor([0, 1]), torch.tensor([1.0, 0.0])
    loss, _ = alrp_loss(logits, labels, boxes)  # half of .001 false positives
    assert (gradient_of(loss, logits) != 0).all()
    loss, _ = alrp_loss(logits, labels, boxes, eps=0.001)
    assert (gradient_of(loss, logits) == 0).all()
    assert loss > 0


def test_the_box_loss_of_background_and_ignored_anchors_does_not_leak():
    logits, labels, box_loss = random_ranking(0)
    has_class = (labels >= 0) & (labels < 3)
    poisoned = torch.where(has_class, box_loss, torch.nan).requires_grad_()
    clean = alrp_loss(logits, labels, box_loss)
    for ours, theirs in zip(alrp_loss(logits, labels, poisoned), clean, strict=True):
        assert torch.equal(ours, theirs)
    loss = alrp_loss(logits, labels, poisoned)[1]
    assert (gradient_of(loss, poisoned)[~has_class] == 0).all()


def test_without_positives_both_losses_are_a_differentiable_zero():
    logits, labels, box_loss = random_ranking(0)
    box_loss.requires_grad_()
    losses = alrp_loss(logits, torch.full_like(labels, 3), box_loss)
    for loss, tensor in zip(losses, (logits, box_loss), strict=True):
        assert loss == 0
        assert (gradient_of(loss, tensor) == 0).all()


def test_a_detector_gives_the_box_losses_of_each_level():
    logits, labels, box_loss = random_ranking(1, num_anchors=40)
    parts = [slice(0, 24), slice(24, 40)]
    levels = [[x[part].unsqueeze(0) for part in parts] for x in (logits, labels, box_loss)]
    both = ALRPLoss(delta=0.5).of_both(levels[0], levels[1], box_loss=levels[2])
    for ours, theirs in zip(both, alrp_loss(logits, labels, box_loss, delta=0.5), strict=True):
        assert_close(ours, theirs.item(), digits=13)


def test_a_ranking_of_each_image_is_the_mean_over_images():
    logits, labels, box_loss = random_ranking(3, num_anchors=40)
    by_image = [x.view(2, 20, *x.shape[1:]) for x in (logits, labels, box_loss)]
    both = ALRPLoss(scope="image").of_both(by_image[:1], by_image[1:2], box_loss=by_image[2:])
    of_images = [alrp_loss(*(x[i] for x in by_image)) for i in range(2)]
    for ours, theirs in zip(both, zip(*of_images, strict=True), strict=True):
        assert_close(ours, sum(theirs).item() / 2, digits=13)


def test_box_losses_of_another_shape_are_refused():
    logits, labels, box_loss = random_ranking(0)
    with pytest.raises(ValueError, match=r"box_loss must be \(30,\) like labels, got \(29,\)"):
        alrp_loss(logits, labels, box_loss[1:])
