import pytest
import torch

from focal_plugin.losses import APLoss, ap_loss

from ..each import each
from .ranking_reference import (
    assert_case,
    assert_close,
    average_precision,
    cases,
    gradient_of,
    inputs,
    random_ranking,
)


@cases("ap")
def test_equals_the_published_cases(case, dtype):
    logits, labels = inputs(case, dtype)
    loss = ap_loss(logits, labels, **case["options"])
    assert loss.dtype == dtype
    assert_case(loss, case["expected"]["value"])
    assert_case(gradient_of(loss, logits), case["expected"]["gradient"])


@each("delta", [1.0, 0.5, 0.1, 0.0])
@each("ties", [False, True])
@each("seed", range(3))
def test_equals_loops_over_all_pairs(delta, ties, seed):
    logits, labels, _ = random_ranking(seed, ties=ties)
    value, gradient = average_precision(logits, labels, delta)
    loss = ap_loss(logits, labels, delta=delta)
    assert_close(loss, value, digits=12)
    assert_close(gradient_of(loss, logits), gradient, digits=12)


def test_a_precision_below_that_of_a_lower_positive_is_replaced_by_it():
    """The precisions below the one negative are 1/2, 2/3 and 3/4."""
    logits = torch.tensor([[5.0], [2.0], [-2.0], [-4.0]], dtype=torch.float64, requires_grad=True)
    loss = ap_loss(logits, torch.tensor([1, 0, 0, 0]), delta=0.5)
    assert_close(loss, 1 / 4)
    assert_close(gradient_of(loss, logits).sum(), 0.0, digits=15)


@each("seed", range(3))
def test_the_gradient_sums_to_zero_and_its_norm_is_twice_the_loss(seed):
    logits, labels, _ = random_ranking(seed)
    loss = ap_loss(logits, labels)
    gradient = gradient_of(loss, logits)
    assert_close(gradient.sum(), 0.0, digits=15)
    assert_close(gradient.abs().sum(), 2 * loss.item(), digits=14)
    assert_close(gradient[gradient > 0].sum(), loss.item(), digits=14)


def test_a_constant_added_to_all_logits_changes_nothing():
    logits, labels, _ = random_ranking(0)
    shifted = (logits.detach() + 8).requires_grad_()
    loss, other = ap_loss(logits, labels), ap_loss(shifted, labels)
    assert_close(other, loss.item(), digits=13)
    assert_close(gradient_of(other, shifted), gradient_of(loss, logits), digits=13)


def test_negatives_below_all_ramps_have_a_gradient_of_exactly_zero():
    logits, labels, _ = random_ranking(1, num_anchors=200)
    gradient = gradient_of(ap_loss(logits, labels, delta=0.25), logits)
    has_class = (labels >= 0) & (labels < 3)
    lowest = logits[has_class, labels[has_class]].min() - 0.25
    below = logits < lowest
    assert below.any()
    assert (gradient[below] == 0).all()
    assert (gradient[~below & (labels == 3).unsqueeze(1)] > 0).all()


def test_the_gradient_is_no_derivative_of_the_value():
    logits, labels, _ = random_ranking(0)
    assert not torch.autograd.gradcheck(lambda x: ap_loss(x, labels), logits, raise_exception=False)


def test_it_cannot_be_differentiated_twice():
    logits, labels, _ = random_ranking(0)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(ap_loss(logits, labels), logits, create_graph=True)


def test_a_fresh_head_has_a_loss_of_almost_one_and_a_gradient_of_two():
    logits = torch.full((5000, 80), -4.595, requires_grad=True)
    labels = torch.full((5000,), 80)
    labels[:3] = 7
    loss = ap_loss(logits, labels)
    assert 0.9999 < loss < 1
    assert_close(gradient_of(loss, logits).abs().sum(), 2 * loss.item(), digits=4)


def test_a_second_backward_pass_gives_the_same_gradient():
    logits, labels, _ = random_ranking(0)
    loss = ap_loss(logits, labels)
    first = gradient_of(loss, logits)
    first_again = first.clone()
    first.zero_()
    assert torch.equal(gradient_of(loss, logits), first_again)


def test_levels_of_any_layout_are_one_ranking():
    logits, labels, _ = random_ranking(2, num_anchors=48)
    planes = logits.detach()[:36].view(2, 3, 3, 2, 3).permute(0, 3, 4, 1, 2).contiguous()
    planes.requires_grad_()  # (N, A, K, Hi, Wi)
    rows = logits.detach()[36:].view(2, 6, 3).requires_grad_()
    loss = APLoss().of_levels(
        [planes.permute(0, 3, 4, 1, 2), rows],
        [labels[:36].view(2, 3, 3, 2), labels[36:].view(2, 6)],
        scale=0.5,
    )
    whole = ap_loss(logits, labels)
    assert_close(loss, whole.item() / 2, digits=13)
    expected = gradient_of(whole, logits) / 2
    (of_planes, of_rows) = torch.autograd.grad(loss, [planes, rows])
    assert_close(of_planes.permute(0, 3, 4, 1, 2).reshape(36, 3), expected[:36], digits=13)
    assert_close(of_rows.view(12, 3), expected[36:], digits=13)
    assert of_planes.is_contiguous()


def test_a_ranking_of_each_image_is_the_mean_over_images_with_an_object():
    logits, labels, _ = random_ranking(3, num_anchors=60)
    labels[40:] = 3
    by_image = logits.view(3, 20, 3), labels.view(3, 20)
    loss = APLoss(scope="image")(*by_image)
    expected = (ap_loss(logits[:20], labels[:20]) + ap_loss(logits[20:40], labels[20:40])) / 2
    assert_close(loss, expected.item(), digits=13)
    assert_close(gradient_of(loss, logits), gradient_of(expected, logits), digits=13)
    assert not torch.isclose(loss, APLoss()(*by_image))
    nothing = APLoss(scope="image")(by_image[0], torch.full((3, 20), 3))
    assert nothing == 0
    assert (gradient_of(nothing, logits) == 0).all()


def test_a_ranking_of_each_image_requires_a_dimension_of_images():
    logits, labels, _ = random_ranking(3)
    with pytest.raises(ValueError, match=r"scope 'image' requires .* got \(30, 3\)"):
        APLoss(scope="image")(logits, labels)
