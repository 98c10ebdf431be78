import math

import numpy as np
import pytest
from scipy import stats

from focal_plugin.compare.analysis.paired import by_arm, compared, paired_tests, stacked
from focal_plugin.compare.analysis.statistics import describe, paired_difference


def numbers(seeds=7, quantities=12):
    """Two arms with values of every size, and with missing ones."""
    rng = np.random.default_rng(3)
    scale = 10.0 ** rng.integers(-6, 4, quantities)
    arm, reference = scale * rng.normal(1, 1, (2, seeds, quantities))
    arm[rng.random(arm.shape) < 0.3] = np.nan
    reference[rng.random(arm.shape) < 0.2] = np.nan
    arm[:, 0] = np.nan  # a quantity that no run has
    arm[1:, 1] = np.nan  # one pair at most
    return arm, reference


def test_the_tests_equal_those_of_scipy():
    arm, reference = numbers()
    found = paired_tests(arm, reference)
    for q in range(arm.shape[1]):
        known = ~np.isnan(arm[:, q] - reference[:, q])
        assert found.pairs[q] == known.sum()
        if known.sum() < 2:
            assert all(math.isnan(part[q]) for part in (found.low, found.high, found.p))
            continue
        expected = stats.ttest_rel(arm[known, q], reference[known, q])
        assert found.p[q] == pytest.approx(expected.pvalue, rel=1e-9)
        interval = expected.confidence_interval(0.95)
        assert (found.low[q], found.high[q]) == pytest.approx((interval.low, interval.high))


def test_the_tests_equal_those_of_the_verdicts():
    arm, reference = numbers()
    arm[:, 2] = reference[:, 2]  # no difference at all
    arm[:, 3] = reference[:, 3] + 0.25  # the same in every seed
    arm[:, 4] = reference[:, 4] * (1 + 1e-15)  # rounding
    found = paired_tests(arm, reference)
    for q in range(2, arm.shape[1]):
        a, b = ({s: v for s, v in enumerate(x[:, q]) if v == v} for x in (arm, reference))
        expected = paired_difference(a, b)
        if expected.n < 2:
            continue
        assert found.mean[q] == pytest.approx(expected.mean, rel=1e-12)
        assert (found.low[q], found.high[q]) == pytest.approx(expected.interval, rel=1e-9)
        assert found.p[q] == pytest.approx(expected.t_p, rel=1e-9)


def test_a_spread_is_that_of_the_numbers_that_exist():
    arm, reference = numbers()
    for q, found in enumerate(compared(arm, reference)):
        expected = describe(v for v in arm[:, q] if not math.isnan(v))
        assert (found.n, found.mean is None) == (expected.n, expected.mean is None)
        if expected.mean is not None:
            assert found.mean == pytest.approx(expected.mean)
        if expected.std is not None:
            assert found.std == pytest.approx(expected.std)


def test_the_reference_has_no_difference_and_one_seed_no_interval():
    values = {"CE": {1: np.array([3.0])}, "FL": {1: np.array([5.0]), 2: np.array([9.0])}}
    found = by_arm(values, "CE")
    (reference,), (arm,) = found["CE"], found["FL"]
    assert (reference.mean, reference.difference, reference.pairs) == (3, None, 0)
    assert (arm.mean, arm.n, arm.difference, arm.interval, arm.pairs) == (7, 2, 2, None, 1)


def test_runs_that_are_missing_leave_rows_of_nan():
    rows = stacked({"CE": {1: np.ones(3), 2: np.arange(3.0)}, "FL": {2: np.zeros(3)}, "GHM": {}})
    assert rows["CE"].shape == rows["FL"].shape == rows["GHM"].shape == (2, 3)
    assert np.isnan(rows["FL"]).all(axis=1).tolist() == [True, False]
    assert np.isnan(rows["GHM"]).all()
    assert by_arm({"CE": {}, "FL": {}}, "CE") == {"CE": [], "FL": []}
