"""Tests of ranks over datasets, against scipy and the numbers of Demsar (2006)."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from focal_plugin.compare.analysis.ranks import rank_arms

ARMS = ("a", "b", "c", "d")
QUANTILES = (2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)
"""Critical values of Nemenyi's test for 3 to 10 arms, table 5 (a) of the paper."""


def ranks(values, arms=ARMS, fewest=5):
    table = {f"d{i}": dict(zip(arms, map(float, row), strict=True)) for i, row in enumerate(values)}
    return rank_arms(table, fewest_datasets=fewest)


def example():
    """Return APs of four arms on 14 datasets, with ties."""
    noise = np.random.default_rng(3).normal(0, 1.5, (14, 4))
    return np.round(30 + np.array([0.0, 1.0, 0.2, 1.2]) + noise).tolist()


def test_the_mean_ranks_are_those_of_a_count():
    found = ranks(example())
    values = np.array(example())
    for i, arm in enumerate(ARMS):
        above = (values > values[:, i : i + 1]).sum(axis=1)
        equal = (values == values[:, i : i + 1]).sum(axis=1)  # with itself
        assert found.mean[arm] == pytest.approx((above + (equal + 1) / 2).mean())
    assert list(found.mean.values()) == sorted(found.mean.values())


@pytest.mark.parametrize("number", range(3, 11))
def test_the_critical_difference_is_that_of_the_paper(number):
    arms = tuple(map(str, range(number)))
    found = ranks(np.random.default_rng(0).random((14, number)), arms=arms)
    factor = (number * (number + 1) / (6 * 14)) ** 0.5
    assert found.critical_difference == pytest.approx(QUANTILES[number - 3] * factor, abs=1e-3)
    if number == 4:  # the example of section 3.2.4
        assert found.critical_difference == pytest.approx(1.25, abs=0.005)


def test_friedmans_test_is_that_of_iman_and_davenport():
    chi = stats.friedmanchisquare(*np.array(example()).T).statistic
    f = 13 * chi / (14 * 3 - chi)
    assert ranks(example()).friedman_p == pytest.approx(stats.f.sf(f, 3, 39))


def test_arms_within_the_critical_difference_are_one_group():
    assert ranks(example()).groups[0][0] == next(iter(ranks(example()).mean))
    clear = ranks([[4, 3, 2, 1.0]] * 30)
    assert (clear.groups, clear.friedman_p) == ((), 0.0)
    chained = ranks([[4, 3, 2, 1.0]] * 12)  # critical difference 1.35
    assert chained.groups == (ARMS[:2], ARMS[1:3], ARMS[2:])


def test_equal_arms_share_their_rank():
    found = ranks([[1.0, 1.0, 1.0]] * 5, arms=ARMS[:3])
    assert (set(found.mean.values()), found.friedman_p) == ({2.0}, 1.0)


def test_a_dataset_without_an_arm_is_left_out_and_few_have_no_ranks():
    rows = {f"d{i}": {"a": 1.0, "b": 2.0, "c": 0.5 + i} for i in range(5)}
    assert len(rank_arms(rows, fewest_datasets=5).datasets) == 5
    del rows["d3"]["b"]
    assert rank_arms(rows, fewest_datasets=5) is None
    assert rank_arms(rows, fewest_datasets=4).datasets == ("d0", "d1", "d2", "d4")


def test_two_arms_have_no_ranks():
    assert ranks([[1.0, 2.0]] * 9, arms=("a", "b")) is None


@pytest.mark.slow
def test_a_report_does_not_wait_for_the_import_of_the_statistics_of_scipy():
    code = (
        "import sys, focal_plugin.compare.report_command; "
        "sys.exit(sorted(sys.modules.keys() & {'scipy.stats', 'scipy.optimize'}) or None)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
