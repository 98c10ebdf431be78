import warnings

import numpy as np
import pytest
from scipy import integrate, stats

from focal_plugin.compare.analysis.power import paired_t_power, recommend_seeds
from focal_plugin.compare.analysis.verdicts import verdicts

from ...each import each


def power_by_integration(n, effect, std, alpha):
    """Integrate the power of T = (Z + nc) / S over the sample standard deviation S."""
    needed, nc = stats.t.ppf(1 - alpha / 2, n - 1), np.sqrt(n) * effect / std

    def density(s):
        return (
            stats.chi.pdf(s * np.sqrt(n - 1), n - 1)
            * np.sqrt(n - 1)
            * stats.norm.cdf(nc - needed * s)
        )

    return integrate.quad(density, 0, 6, limit=500)[0]


@each("n", [2, 6, 10, 40])
@each(("std", "alpha"), [(0.5, 0.05), (1.0, 0.05), (3.0, 0.05), (1.0, 0.05 / 7)])
def test_power_is_that_of_the_noncentral_t_distribution(n, std, alpha):
    expected = power_by_integration(n, 1.0, std, alpha)
    assert paired_t_power(n, 1.0, std, alpha=alpha) == pytest.approx(expected, abs=1e-7)


def test_power_is_the_rate_of_the_verdict_higher():
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(1000):
        results = {
            "FL": dict(enumerate(generator.normal(1, 1, 8))),
            "CE": dict.fromkeys(range(8), 0),
        }
        found += verdicts(results, "CE")[0].decision == "higher"
    assert found / 1000 == pytest.approx(float(paired_t_power(8, 1.0, 1.0)), abs=0.04)


def test_power_depends_on_effect_over_std_only_and_grows_with_n():
    n = np.arange(2, 60)
    power = paired_t_power(n, 1.0, 2.0)
    assert power == pytest.approx(paired_t_power(n, 0.3, 0.6))
    assert (np.diff(power) > 0).all()
    assert power.shape == n.shape


def test_without_spread_every_difference_is_found_and_nothing_warns():
    assert paired_t_power(6, 0.1, 0.0) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert paired_t_power(np.arange(6, 1001), 1.0, 0.01) == pytest.approx(1)


@pytest.mark.parametrize("args", [(1, 1.0, 1.0), (6, 0.0, 1.0), (6, 1.0, -1.0), (6, 1.0, np.nan)])
def test_illegal_arguments_are_rejected(args):
    with pytest.raises(ValueError, match="expected n >= 2"):
        paired_t_power(*args)


@pytest.mark.parametrize(("std", "comparisons"), [(1.0, 1), (1.0, 7), (0.8, 3), (2.5, 1)])
def test_the_recommended_number_is_the_first_with_the_power(std, comparisons):
    found = recommend_seeds(std, comparisons=comparisons)
    alpha = 0.05 / comparisons
    assert found.power == pytest.approx(
        power_by_integration(found.seeds, 1.0, std, alpha), abs=1e-7
    )
    assert found.power >= 0.8 > power_by_integration(found.seeds - 1, 1.0, std, alpha)


def test_a_textbook_case():
    # standardized effect .5, two-sided .05, power .8: 34 pairs (Cohen 1988)
    assert recommend_seeds(2.0).seeds == 34


def test_fewer_than_four_seeds_are_never_recommended():
    assert recommend_seeds(0.01).seeds == 4


def test_a_number_of_seeds_above_the_limit_is_none():
    found = recommend_seeds(100.0)
    assert found.seeds is None


@pytest.mark.parametrize("options", [{"comparisons": 0}, {"power": 1.0}, {"power": 0.0}])
def test_illegal_requests_are_rejected(options):
    with pytest.raises(ValueError, match="expected comparisons >= 1"):
        recommend_seeds(1.0, **options)
