"""Tests of planned looks, shrunk variances, the anytime-valid test and designs."""

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from focal_plugin.compare.analysis.anytime import anytime_p
from focal_plugin.compare.analysis.designs import plan_looks, simulate
from focal_plugin.compare.analysis.looks import Looks
from focal_plugin.compare.analysis.procedure import judge
from focal_plugin.compare.analysis.shrinkage import shrink
from focal_plugin.compare.plan.design import Design

# --- looks


def test_a_single_look_changes_no_p_value():
    p = np.array([0.0, 0.01, 0.3, 1.0])
    assert Looks((7,)).p_value(p).tolist() == p.tolist()
    assert Looks((7,)).level(0.05) == 0.05


def test_the_nominal_levels_are_those_of_an_independent_simulation():
    # looks 6, 9, 12: .0149, (.0223), .0298, found by another program
    looks = Looks((6, 9, 12))
    assert looks.level(0.05) * looks.shares[[0, 2]] == pytest.approx([0.0149, 0.0298], rel=0.02)


def test_t_tests_at_these_levels_are_wrong_5_times_in_100():
    counts = (4, 7, 10)
    looks = Looks(counts)
    values = np.random.default_rng(11).standard_normal((40_000, 10))
    p = np.array([stats.ttest_1samp(values[:, :n], 0, axis=1).pvalue for n in counts])
    overall = looks.p_value((p / looks.shares[:, None]).min(axis=0))
    for level in (0.01, 0.05, 0.3):
        assert np.mean(overall <= level) == pytest.approx(level, abs=4 * np.sqrt(level / 40_000))
    one = np.array(
        [stats.ttest_1samp(values[:, :n], 0, axis=1, alternative="greater").pvalue for n in counts]
    )
    overall = looks.p_value((one / looks.shares[:, None]).min(axis=0), sides=1)
    assert np.mean(overall <= 0.05) == pytest.approx(0.05, abs=0.005)


def test_small_p_values_are_bounded_and_in_order():
    looks = Looks((6, 9, 12))
    smallest = np.geomspace(1e-12, 1, 200)
    p = looks.p_value(smallest)
    assert np.all(np.diff(p) >= 0)
    assert np.all(p <= smallest * looks.shares.sum() + 1e-4)
    assert np.all(p >= np.minimum(smallest, 0.9))


@pytest.mark.parametrize("counts", [(), (0, 3), (4, 4), (6, 5)])
def test_looks_must_increase(counts):
    with pytest.raises(ValueError, match="increasing"):
        Looks(counts)


# --- shrunk variances


def limma_by_hand(variances, d):
    """Return d0 by solving trigamma(d0 / 2) = spread - trigamma(d / 2), and the pooled mean."""
    e = np.log(variances) - special.digamma(d / 2) + np.log(d / 2)
    excess = np.var(e, ddof=1) - special.polygamma(1, d / 2)
    if excess <= 0:
        return np.inf
    half = optimize.brentq(lambda y: special.polygamma(1, y) - excess, 1e-6, 1e6)
    return 2 * half


@pytest.mark.parametrize("seed", range(6))
def test_variances_are_shrunk_by_limmas_prior(seed):
    generator = np.random.default_rng(seed)
    true = generator.chisquare(3, 8) / 3
    variances = true * generator.chisquare(5, 8) / 5
    found, freedom = shrink(variances, np.full(8, 5))
    prior = min(limma_by_hand(variances, 5), 5)
    assert freedom == pytest.approx(np.full(8, 5 + prior), rel=1e-8)
    assert found == pytest.approx((prior * variances.mean() + 5 * variances) / (prior + 5))


def test_two_variances_are_not_shrunk_and_a_missing_one_does_not_count():
    two = np.array([1.0, 9.0])
    assert shrink(two, np.full(2, 5))[0].tolist() == two.tolist()
    with_missing = np.array([1.0, 9.0, np.nan, 0.0])
    found, freedom = shrink(with_missing, np.full(4, 5))
    assert found[:2].tolist() == two.tolist()
    assert freedom.tolist() == [5, 5, 5, 5]


# --- the anytime-valid test


def bayes_factor(values):
    """Return the Bayes factor for effect sizes N(0, 1), by numerical integration."""
    n = len(values)
    t = np.mean(values) / np.std(values, ddof=1) * np.sqrt(n)
    of_effect = integrate.quad(
        lambda d: stats.nct.pdf(t, n - 1, d * np.sqrt(n)) * stats.norm.pdf(d), -8, 8, limit=200
    )[0]
    return of_effect / stats.t.pdf(t, n - 1)


def test_the_e_value_is_the_bayes_factor():
    values = np.random.default_rng(4).normal(0.9, 1, 9)
    expected = max(bayes_factor(values[:n]) for n in range(2, 10))
    assert anytime_p(values) == pytest.approx(1 / max(1, expected), rel=1e-6)


def test_a_test_after_every_seed_is_wrong_less_than_5_times_in_100():
    generator = np.random.default_rng(0)
    alarms = [anytime_p(generator.standard_normal(100)) <= 0.05 for _ in range(1000)]
    assert np.mean(alarms) < 0.05
    found = [anytime_p(generator.standard_normal(18) + 1) <= 0.05 for _ in range(1000)]
    assert np.mean(found) > 0.78


def test_equal_differences_and_few_seeds():
    assert anytime_p([]) == anytime_p([3.0]) == anytime_p([0.0, 0.0]) == 1.0
    assert 0 < anytime_p([2.0] * 8) < 0.01


# --- the procedure as a whole


def test_a_pair_without_a_result_is_left_out():
    differences = np.random.default_rng(0).normal(1, 1, (1, 6))
    with_gap = np.insert(differences, 3, np.nan, axis=1)
    one, other = judge(differences, Design((6,))), judge(with_gap, Design((7,)))
    assert (one.n[0], one.mean[0]) == (other.n[0], other.mean[0])
    assert one.p[0] == pytest.approx(other.p[0], rel=1e-12)
    expected = stats.ttest_1samp(differences[0], 0).pvalue
    assert one.p[0] == pytest.approx(expected, rel=1e-9)


def test_seeds_after_the_stop_of_an_arm_are_not_read():
    generator = np.random.default_rng(1)
    differences = generator.normal(0, 1, (2, 9))
    differences[0] += 8.0  # stops at the first look
    design = Design((4, 9), effect=5.0)
    first = judge(differences, design)
    differences[0, 4:] = -100.0
    second = judge(differences, design)
    assert first.look[0] == 0
    assert (first.p[0], first.mean[0]) == (second.p[0], second.mean[0])


def test_planned_looks_find_the_effect_with_fewer_runs():
    design = Design((6, 9, 12, 15, 18), effect=2.0)
    one = simulate(design, [2.0] + [0.0] * 6, 2.0, trials=1500)
    assert one.found[0] == pytest.approx(0.8, abs=0.035)
    assert one.runs < 81  # 17 seeds of 8 arms are 136 runs
    null = simulate(design, [0.0] * 7, 2.0, trials=1500, futility=False)
    assert null.any_found < 0.05 + np.sqrt(0.05 * 0.95 / 1500)


def test_a_plan_reaches_its_power_and_needs_no_looks_for_large_effects():
    design = plan_looks(2.0, 2.0, 1)
    assert design.is_sequential
    assert simulate(design, [2.0], 2.0, seed=5).found[0] == pytest.approx(0.8, abs=0.03)
    assert plan_looks(1.0, 5.0, 1).looks == (4,)
    with pytest.raises(ValueError, match="no practical number"):
        plan_looks(100.0, 0.1, 1)
    with pytest.raises(ValueError, match="expected std > 0"):
        plan_looks(0.0, 1.0, 1)
