"""Tests of the warnings about outliers and skew."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from focal_plugin.compare.analysis.statistics import paired_difference
from focal_plugin.compare.analysis.summary import unusual_arms
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


def test_the_differences_are_looked_at_and_not_the_values():
    reference = by_seed(20.0, 20.4, 12.0, 20.1, 19.8, 20.2)
    parallel = {seed: value + 2 + 0.1 * (seed % 3) for seed, value in reference.items()}
    apart = {**parallel, 5: 30.0}
    verdicts = [
        SimpleNamespace(arm=arm, difference=paired_difference(values, reference))
        for arm, values in {"FL": parallel, "CE": apart}.items()
    ]
    verdicts.append(SimpleNamespace(arm="none", difference=None))
    (found,) = unusual_arms(SimpleNamespace(verdicts=verdicts))
    assert (found.arm, found.outliers) == ("CE", (5,))
