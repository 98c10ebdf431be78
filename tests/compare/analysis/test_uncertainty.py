"""Tests of the uncertainty of a difference against scipy and brute force."""

import math

import numpy as np
import pytest
from scipy import stats

from focal_plugin.compare.analysis.summary import summarize
from focal_plugin.compare.analysis.uncertainty import bca_interval, probability_of_improvement

from ...each import each
from ..fake_comparison import FakeArm, write_comparison


@each("seed", range(4))
def test_the_bca_interval_is_scipys(seed):
    values = np.random.default_rng(seed).gamma(2, 1, 12)
    expected = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=40_000, rng=np.random.default_rng(9)
    ).confidence_interval
    assert bca_interval(values) == pytest.approx((expected.low, expected.high), abs=0.05)


def test_few_and_equal_differences():
    assert bca_interval([1.0, 2.0, 3.0]) is None
    assert bca_interval([2.0] * 5) == (2.0, 2.0)


def test_the_probability_of_improvement_is_mann_whitneys():
    generator = np.random.default_rng(0)
    one, other = generator.integers(0, 6, 9), generator.integers(0, 6, 7)
    expected = stats.mannwhitneyu(one, other).statistic / 63
    assert probability_of_improvement(one, other) == pytest.approx(expected)
    assert probability_of_improvement([1.0], [1.0]) == 0.5


def test_seeds_and_images_add_up(tmp_path):
    arms = {"CE": FakeArm(0.5), "FL": FakeArm(0.8), "GHM": FakeArm(0.8, {1: "missing"})}
    write_comparison(tmp_path, arms, (1, 2, 3, 4))
    summary = summarize(tmp_path, replicates=50)
    fl, ghm = summary.uncertainties
    difference = summary.equal.verdict("FL").difference
    error = math.hypot(difference.error, summary.detections.arms["FL"].images.standard_error)
    expected = stats.t(difference.freedom, difference.mean, error).interval(0.95)
    assert fl.total == pytest.approx(expected)
    assert fl.seeds == difference.interval
    assert fl.effect_size == pytest.approx(difference.mean / difference.std)
    assert (fl.improvement, ghm.bca) == (1.0, None)
    without = summarize(tmp_path, replicates=0).uncertainties[0]
    assert (without.images, without.total, without.seeds) == (None, None, fl.seeds)
