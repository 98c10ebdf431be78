"""Tests of the tool that measures the error rates over datasets and folds."""

import pytest

from ..tools import load_tool


@pytest.fixture(scope="module")
def tool():
    return load_tool("simulated_datasets")


@pytest.mark.parametrize("model", ["normal", "t, 3 degrees", "skewed arm", "unequal datasets"])
def test_equal_arms_differ_over_datasets_no_more_often_than_they_may(tool, model):
    rate = tool.datasets_rate(tool.NOISE[model], datasets=3, seeds=4, comparisons=300)
    assert 0 < rate < 0.1


def test_a_real_difference_over_datasets_is_found(tool):
    calls = []

    def shifted(rng, shape):  # the arm and then the reference
        calls.append(shape)
        return rng.normal(size=shape) + 3.0 * (len(calls) % 2)

    assert tool.datasets_rate(shifted, datasets=3, seeds=4, comparisons=100) > 0.95


def test_the_correction_for_folds_makes_false_differences_rare(tool):
    corrected, plain = tool.folds_rates(5, 300, examples=40, features=20)
    assert corrected < plain
    assert corrected < 0.06 < plain
