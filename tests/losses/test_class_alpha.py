"""Alphas of the classes from their numbers of objects."""

import pytest
import torch

from focal_plugin.losses import (
    SigmoidFocalLoss,
    SoftmaxFocalLoss,
    class_alpha_of_counts,
    sigmoid_focal_loss,
)

BCCD = [4155, 372, 361]
"""Objects per class of a public set of blood cells."""


def odds(alpha):
    return alpha / (1 - alpha)


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_the_odds_of_a_class_are_weighted_by_its_inverse_frequency(power, alpha):
    alphas = class_alpha_of_counts(BCCD, alpha=alpha, power=power)
    weights = [(sum(BCCD) / n) ** power for n in BCCD]
    mean = sum(weights) / len(weights)
    for got, weight in zip(alphas, weights, strict=True):
        assert odds(got) / odds(alpha) == pytest.approx(weight / mean, rel=1e-3)


def test_equal_classes_and_a_power_of_zero_keep_alpha():
    assert class_alpha_of_counts([7, 7, 7]) == [0.25] * 3
    assert class_alpha_of_counts(BCCD, power=0) == [0.25] * 3
    assert class_alpha_of_counts([5], alpha=0.7) == [0.7]


def test_a_class_without_objects_keeps_alpha_and_changes_no_other_class():
    two = class_alpha_of_counts([100, 10])
    assert class_alpha_of_counts([100, 0, 10]) == [two[0], 0.25, two[1]]
    assert class_alpha_of_counts([0, 0]) == [0.25, 0.25]
    assert class_alpha_of_counts([]) == []


def test_alpha_off_is_one_half_and_the_background_of_softmax_keeps_its_own():
    assert class_alpha_of_counts([3, 3], alpha=-1) == [0.5, 0.5]
    assert class_alpha_of_counts([3, 3], alpha=None) == [0.5, 0.5]
    assert class_alpha_of_counts([3, 3], with_background=True) == [0.25, 0.25, 0.75]


@pytest.mark.parametrize("power", [200.0, 1e6])
def test_any_power_and_any_count_give_an_alpha_in_its_range(power):
    alphas = class_alpha_of_counts([1, 10**9, 0], power=power)
    assert all(0 <= alpha <= 1 for alpha in alphas)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": -1}, "class_alpha_power must be >= 0"),
        ({"power": float("nan")}, "class_alpha_power must be >= 0"),
        ({"alpha": 2}, "alpha must be in"),
    ],
)
def test_an_illegal_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        class_alpha_of_counts(BCCD, **options)


@pytest.mark.parametrize(("loss", "columns"), [(SigmoidFocalLoss, 3), (SoftmaxFocalLoss, 4)])
def test_an_alpha_that_nobody_computed_is_refused_when_the_loss_is_called(loss, columns):
    built = loss(class_alpha="auto")
    built.check(3)
    with pytest.raises(ValueError, match=r"CLASS_ALPHA\) must be a list of numbers when .* auto"):
        built(torch.zeros(2, columns), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"class_alpha must be a list of numbers.*'automatic'"):
        loss(class_alpha="automatic")


def test_a_function_takes_numbers_only():
    with pytest.raises(ValueError, match=r"class_alpha must be a list of numbers.*'auto'"):
        sigmoid_focal_loss(torch.zeros(2, 3), torch.tensor([0, 3]), class_alpha="auto")
