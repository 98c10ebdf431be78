"""Tests of the statistics against scipy and brute force."""

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy import stats

from focal_plugin.compare.analysis.statistics import (
    describe,
    holm,
    joint_sign_flip_p,
    paired_difference,
    sign_flip_p,
)

from ...each import each


def arm(*values):
    return dict(enumerate(values, start=1))


def random_pair(n, seed):
    generator = np.random.default_rng(seed)
    first, second = generator.normal(30, 1, n), generator.normal(30.5, 1, n)
    return arm(*first), arm(*second)


# --- describe


def test_mean_and_std_are_numpys():
    found = describe([1.0, 2.0, 4.0])
    assert (found.mean, found.n) == (pytest.approx(7 / 3), 3)
    assert found.std == pytest.approx(np.std([1, 2, 4], ddof=1))


def test_one_value_has_no_std_and_none_has_no_mean():
    assert (describe([3.0]).mean, describe([3.0]).std) == (3.0, None)
    assert (describe([]).mean, describe([]).n) == (None, 0)


@pytest.mark.parametrize("failed", [None, math.nan, math.inf])
def test_a_failed_run_is_refused_not_averaged_away(failed):
    with pytest.raises(ValueError, match="failed run"):
        describe([1.0, failed])
    with pytest.raises(ValueError, match="seed 2"):
        paired_difference(arm(1.0, failed), arm(1.0, 2.0))
    with pytest.raises(ValueError, match="seed 2"):
        paired_difference(arm(1.0), arm(1.0, failed))


# --- paired_difference


@pytest.mark.parametrize("n", [2, 3, 6, 10])
def test_the_t_test_and_its_interval_are_scipys(n):
    first, second = random_pair(n, seed=n)
    found = paired_difference(first, second)
    expected = stats.ttest_rel(list(first.values()), list(second.values()))
    assert found.t_p == pytest.approx(expected.pvalue, rel=1e-10)
    assert found.interval == pytest.approx(expected.confidence_interval(0.95), rel=1e-10)
    wide = paired_difference(first, second, alpha=0.01)
    assert wide.interval == pytest.approx(expected.confidence_interval(0.99), rel=1e-10)
    assert found.std == pytest.approx(np.std(found.differences, ddof=1))


def test_pairs_are_by_seed_and_only_those_that_both_have():
    found = paired_difference({3: 5.0, 1: 2.0, 7: 9.0}, {1: 1.0, 2: 0.0, 3: 1.0})
    assert (found.seeds, found.differences, found.mean) == ((3, 1), (4.0, 1.0), 2.5)


def test_no_common_seed_is_an_error():
    with pytest.raises(ValueError, match="no seed in common"):
        paired_difference({1: 1.0}, {2: 1.0})


def test_one_seed_has_no_interval_and_no_t_test():
    found = paired_difference({1: 2.0}, {1: 1.5})
    assert (found.mean, found.std, found.interval, found.t_p) == (0.5, None, None, None)
    assert (found.sign_flip_p, found.error, found.effect_size) == (1.0, None, None)


def test_equal_differences_give_p_0_or_1_and_no_warning():
    reference = arm(*np.linspace(1, 70, 8))  # changes the rounding of the sums below
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = paired_difference(reference, reference)
        shifted = paired_difference({s: v + 0.3 for s, v in reference.items()}, reference)
    assert (same.t_p, same.interval, same.std) == (1.0, (0.0, 0.0), 0.0)
    assert (shifted.t_p, shifted.std) == (0.0, 0.0)
    assert shifted.interval == pytest.approx((0.3, 0.3))


def test_a_rounding_difference_is_zero():
    reference = arm(*np.random.default_rng(0).normal(30, 1, 8))
    rounded = {seed: value * (1 + 2e-16 * 3) for seed, value in reference.items()}
    assert any(rounded[seed] != reference[seed] for seed in reference)
    found = paired_difference(rounded, reference)
    assert (found.mean, found.t_p, found.sign_flip_p) == (0.0, 1.0, 1.0)


def test_another_standard_error_changes_interval_and_p_but_not_the_mean():
    first, second = random_pair(6, seed=1)
    found = paired_difference(first, second)
    other = found.with_error(0.4, 10.0)
    expected = stats.t(10, loc=found.mean, scale=0.4)
    assert other.interval == pytest.approx(expected.interval(0.95), rel=1e-10)
    assert other.t_p == pytest.approx(2 * stats.t.sf(abs(found.mean) / 0.4, 10), rel=1e-10)
    assert (other.mean, other.std, other.differences) == (found.mean, found.std, found.differences)


def test_the_effect_size_is_cohens_d_z():
    first, second = random_pair(9, seed=5)
    found = paired_difference(first, second)
    assert found.effect_size == pytest.approx(found.mean / np.std(found.differences, ddof=1))


# --- the sign-flip test


def brute_force_sign_flip_p(differences):
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product([1, -1], repeat=len(differences))
    ]
    return sum(total >= abs(sum(differences)) - 1e-9 for total in sums) / len(sums)


@each("n", range(1, 13))
def test_sign_flips_are_all_counted(n):
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    assert sign_flip_p(differences) == brute_force_sign_flip_p(differences)


def test_sign_flip_p_is_scipys_exact_permutation_test():
    differences = np.random.default_rng(3).normal(0.5, 1, 9)
    expected = stats.permutation_test(
        (differences, np.zeros(9)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert sign_flip_p(differences) == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("differences", [(0.1, 0.2, 0.3, -0.6, 0.1), (1, 1, -1, 0, 0), (0.7, -0.7)])
def test_ties_count_despite_rounding(differences):
    assert sign_flip_p(differences) == brute_force_sign_flip_p(differences)


@each("n", [1, 3, 5, 6, 20, 21, 30])
def test_the_smallest_p_of_n_seeds_is_reached_when_all_point_the_same_way(n):
    differences = np.random.default_rng(n).uniform(0.1, 1, n)
    assert sign_flip_p(differences) == sign_flip_p(-differences) == 2.0 ** (1 - n)


def test_no_difference_at_all_has_p_1():
    assert sign_flip_p(np.zeros(7)) == sign_flip_p([]) == 1.0


def test_above_thirty_seeds_p_is_sampled_and_always_the_same():
    differences = np.random.default_rng(0).normal(0.25, 1, 60)
    p = sign_flip_p(differences)
    assert p == sign_flip_p(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert sign_flip_p(np.ones(60)) == pytest.approx(5e-5, rel=0.01)  # never 0


# --- the sign-flip test of several arms


def brute_force_joint_p(differences):
    """Return the p-values by maxT over all flips of whole seeds."""
    norms = np.sqrt((differences**2).sum(axis=1))
    observed = np.abs(differences.sum(axis=1)) / norms
    largest = [
        (np.abs(differences @ np.array(signs)) / norms).max()
        for signs in itertools.product([1, -1], repeat=differences.shape[1])
    ]
    return [np.mean([top >= own - 1e-9 for top in largest]) for own in observed]


@each("n", [2, 4, 7, 9])
def test_all_joint_flips_are_counted(n):
    differences = np.random.default_rng(n).normal(0.5, 1, (3, n))
    assert joint_sign_flip_p(differences).tolist() == brute_force_joint_p(differences)


def test_the_smallest_joint_p_does_not_depend_on_the_number_of_arms():
    noise = np.random.default_rng(0).normal(0, 1, (6, 6))
    for arms in (1, 3, 6):
        clear = np.vstack([np.full(6, 3.0), noise[: arms - 1]])
        assert joint_sign_flip_p(clear)[0] == 2.0**-5


def test_a_missing_pair_neither_helps_nor_hurts():
    full = np.random.default_rng(1).normal(1, 1, (2, 7))
    with_gap = np.hstack([full, [[math.nan], [math.nan]]])
    assert joint_sign_flip_p(with_gap).tolist() == joint_sign_flip_p(full).tolist()
    assert joint_sign_flip_p(np.zeros((2, 5))).tolist() == [1.0, 1.0]


def test_above_sixteen_seeds_the_joint_p_is_sampled_and_always_the_same():
    differences = np.random.default_rng(2).normal(0.6, 1, (2, 20))
    p = joint_sign_flip_p(differences)
    assert p.tolist() == joint_sign_flip_p(differences).tolist()
    alone = [sign_flip_p(row) for row in differences]
    assert all(own <= joint <= 2 * own + 0.01 for own, joint in zip(alone, p, strict=True))


# --- Holm


def holm_step_by_step(p_values, alpha):
    """Return the rejected hypotheses by Holm's procedure: smallest first, stop at a failure."""
    rejected = set()
    for step, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] > alpha / (len(p_values) - step):
            break
        rejected.add(i)
    return rejected


@each("seed", range(20))
def test_holm_rejects_what_the_step_down_procedure_rejects_at_every_level(seed):
    p_values = (np.random.default_rng(seed).uniform(size=6) ** 3).tolist()
    adjusted = holm(p_values)
    for alpha in (0.001, 0.01, 0.05, 0.2, 0.7):
        rejected = {i for i, p in enumerate(adjusted) if p <= alpha}
        assert rejected == holm_step_by_step(p_values, alpha)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_undecidable_comparisons_still_count():
    assert holm([0.01, None, 0.02]) == [pytest.approx(0.03), None, pytest.approx(0.04)]


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_holm_rejects_illegal_p_values(p):
    with pytest.raises(ValueError, match="p-value"):
        holm([0.5, p])
