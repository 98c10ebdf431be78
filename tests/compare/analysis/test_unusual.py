"""Tests of the warnings about outliers and skew."""

import numpy as np
import pytest
from scipy import stats

from focal_plugin.compare.analysis.unusual import unusual_values


def by_seed(*values):
    return dict(enumerate(values, start=1))


def test_a_value_far_from_the_others_is_an_outlier():
    found = unusual_values("CE", by_seed(20.0, 20.4, 19.8, 20.1, 12.0, 20.2))
    assert found.outliers == (5,)
    assert unusual_values("CE", by_seed(20.0, 20.4, 12.0)) is None  # too few to tell


def test_the_modified_z_score_is_the_published_one():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 12.0])
    scores = 0.6745 * np.abs(values - 3.5) / stats.median_abs_deviation(values)
    found = unusual_values("CE", by_seed(*values))
    assert (scores > 3.5).tolist() == [False] * 5 + [True]
    assert found.outliers == (6,)


def test_the_skewness_is_scipys_and_small_ones_are_chance():
    values = np.random.default_rng(0).gamma(0.7, 1, 30)
    found = unusual_values("CE", by_seed(*values))
    assert found.skewness == pytest.approx(stats.skew(values, bias=False))
    assert unusual_values("CE", by_seed(*np.linspace(0, 1, 30))) is None


def test_a_normal_arm_is_rarely_called_skewed():
    generator = np.random.default_rng(1)
    drawn = (unusual_values("CE", by_seed(*generator.standard_normal(10))) for _ in range(2000))
    assert sum(d is not None and d.skewness is not None for d in drawn) / 2000 < 0.06


def test_equal_values_and_no_values_are_not_unusual():
    assert unusual_values("CE", by_seed(*[3.0] * 9)) is None
    assert unusual_values("CE", {}) is None
