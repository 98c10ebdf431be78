"""Tests of the verdicts over several datasets, and over folds."""

import math

import numpy as np
import pytest
from scipy import stats

from focal_plugin.compare.analysis.over_datasets import over_datasets, with_left_out
from focal_plugin.compare.analysis.scores import ArmScores, Spread, Standing
from focal_plugin.compare.analysis.statistics import holm
from focal_plugin.compare.analysis.verdicts import verdicts

NOISE = np.array([0.5, -0.4, 0.3, -0.6, 0.45, -0.25])


def scores(arm, values, planned=None, failed=()):
    by_seed = dict(enumerate(values, start=1))
    done = len(by_seed)
    planned = done + len(failed) if planned is None else planned
    states = {"pending": planned - done - len(failed), "running": 0, "done": done}
    states["failed"] = len(failed)
    return ArmScores(arm, 1.0, states, {"AP": Spread.of(by_seed)}, tuple(failed))


def standing(margin=None, planned=None, **arms):
    """Return the standing of arms with these APs; the first one is the reference."""
    reference = next(iter(arms))
    made = tuple(scores(arm, values, planned) for arm, values in arms.items())
    found = verdicts({s.arm: s.judged for s in made}, reference, margin=margin)
    return Standing("equal", made, tuple(found))


def around(mean, n=4, size=1.0, base=30.0):
    """Return n APs with about this mean difference to 30."""
    return list(base + mean + size * NOISE[:n])


def flat(n=4):
    return [30.0] * n


def over(standings, **options):
    return over_datasets(standings, "CE", **options)


def two_datasets():
    return {
        "a": standing(CE=flat(4), FL=around(1.0, 4)),
        "b": standing(CE=flat(6), FL=around(2.0, 6, size=3.0)),
    }


def test_two_datasets_are_welchs_t_test():
    (found,) = over(two_datasets())
    a, b = (np.array(around(m, n, size)) - 30 for m, n, size in ((1.0, 4, 1.0), (2.0, 6, 3.0)))
    same = stats.ttest_ind(a, -b, equal_var=False)  # mean a + mean b = mean a - mean of -b
    assert found.difference.t_p == pytest.approx(same.pvalue, rel=1e-9)
    assert found.difference.freedom == pytest.approx(same.df, rel=1e-9)
    low, high = same.confidence_interval()
    assert found.difference.interval == pytest.approx((low / 2, high / 2), rel=1e-9)
    assert found.difference.mean == pytest.approx((a.mean() + b.mean()) / 2)
    assert found.ap == pytest.approx(30 + found.difference.mean)


def test_p_is_adjusted_over_the_arms():
    means = {"FL": 0.6, "OHEM": -0.5}
    standings = {
        name: standing(CE=flat(), **{arm: around(m + shift) for arm, m in means.items()})
        for name, shift in (("a", 0.0), ("b", 0.2), ("c", -0.1))
    }
    found = over(standings)
    assert [each.p for each in found] == pytest.approx(holm([x.difference.t_p for x in found]))
    assert found[0].p > found[0].difference.t_p


@pytest.mark.parametrize(("sign", "decision"), [(1, "higher"), (-1, "lower")])
def test_datasets_decide_together_what_none_decides_alone(sign, decision):
    standings = {
        name: standing(CE=flat(3), FL=around(sign * mean, 3))
        for name, mean in (("a", 1.2), ("b", 1.0), ("c", 1.4))
    }
    (found,) = over(standings)
    assert found.decision == decision
    assert (found.wins, found.ties, found.losses) == (0, 3, 0)
    assert found.positive == (3 if sign > 0 else 0)


def test_verdicts_of_the_datasets_are_counted():
    means = {"a": 5.0, "b": 5.0, "c": -5.0, "d": 0.0}
    standings = {name: standing(CE=flat(), FL=around(mean)) for name, mean in means.items()}
    (found,) = over(standings)
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)


@pytest.mark.parametrize(("seeds", "has_p"), [((2, 2), True), ((1, 4), False), ((2, 1), False)])
def test_a_verdict_requires_two_seeds_on_each_dataset(seeds, has_p):
    standings = {
        name: standing(CE=flat(n), FL=around(9.0, n)) for name, n in zip("ab", seeds, strict=True)
    }
    (found,) = over(standings)
    assert (found.p is not None) is has_p
    assert (found.difference.interval is not None) is has_p
    assert found.difference.mean == pytest.approx(9.0, abs=0.5)


def test_two_seeds_on_one_dataset_are_too_few():
    (found,) = over({"a": standing(CE=flat(2), FL=around(9.0, 2, size=0.01))})
    assert (found.p, found.decision) == (None, "undecided")


def test_a_verdict_waits_for_unfinished_runs():
    standings = {
        "a": standing(CE=flat(), FL=around(5.0)),
        "b": standing(planned=6, CE=flat(), FL=around(5.0)),
    }
    (found,) = over(standings)
    assert (found.p, found.decision, found.waiting) == (None, "undecided", ("b",))
    assert found.datasets == ("a", "b")


def test_a_dataset_on_which_every_run_failed_is_left_out():
    lost = (scores("CE", flat()), scores("FL", [], failed=(1, 2, 3, 4)))
    failed = Standing("equal", lost, tuple(verdicts({s.arm: s.judged for s in lost}, "CE")))
    good = {name: standing(CE=flat(), FL=around(2.0)) for name in "ab"}
    (found,) = over({**good, "c": failed})
    assert (found.datasets, found.left_out, found.waiting) == (("a", "b"), ("c",), ())
    assert found.decision == "higher"


def test_wilcoxons_test_is_that_of_scipy_from_five_datasets_on():
    means = [0.5, 1.5, -0.2, 2.0, 0.9, 1.1]
    standings = {
        f"d{i}": standing(CE=flat(), FL=around(m, size=i + 1), GHM=around(-m, size=2.0))
        for i, m in enumerate(means)
    }
    found = over(standings)
    raw = [stats.wilcoxon(each.difference.differences).pvalue for each in found]
    assert [each.signed_rank_p for each in found] == pytest.approx(holm(raw))
    few = dict(list(standings.items())[:4])
    assert [each.signed_rank_p for each in over(few)] == [None, None]


def test_equal_arms_on_every_dataset_have_no_difference():
    (found,) = over({f"d{i}": standing(CE=flat(), FL=flat()) for i in range(5)})
    assert (found.decision, found.signed_rank_p, found.p) == ("undecided", 1.0, 1.0)
    assert found.improvement.mean == 0.5


def test_the_probability_of_improvement_is_the_mean_over_the_datasets():
    standings = {
        "a": standing(CE=[1.0, 3.0], FL=[2.0, 3.0]),  # 2 over 1, 3 over 1, 3 equal to 3: 2.5 of 4
        "b": standing(CE=[1.0, 2.0], FL=[5.0, 6.0]),
    }
    (found,) = over(standings)
    assert found.improvement.mean == pytest.approx((2.5 / 4 + 1) / 2)
    low, high = found.improvement.interval
    assert low == pytest.approx((0 + 1) / 2)  # dataset a: FL draws 2, 2 and CE draws 3, 3
    assert high == 1.0


def test_a_margin_makes_equivalence():
    standings = {
        name: standing(margin=2.0, CE=flat(6), FL=around(0.2, 6)) for name in ("a", "b", "c")
    }
    assert over(standings)[0].decision == "undecided"
    (found,) = over(standings, margin=2.0)
    d = found.difference
    upper = stats.t.sf((2.0 - d.mean) / d.error, d.freedom)
    lower = stats.t.sf((2.0 + d.mean) / d.error, d.freedom)
    assert found.p_equivalent == pytest.approx(max(upper, lower))
    assert found.p_not_worse == pytest.approx(lower)
    assert found.decision == "equivalent"
    tall = {name: standing(CE=flat(6), FL=around(0.5, 6, size=2.0)) for name in ("a", "b")}
    assert over(tall, margin=0.5)[0].decision == "not worse"


# --- folds


def folds(*means, n=2):
    return {f"fold-{i}": standing(CE=flat(n), FL=[30.0 + m] * n) for i, m in enumerate(means, 1)}


def test_folds_have_the_variance_of_nadeau_and_bengio():
    means = (1.0, 2.0, 0.5, 1.5, 3.0)
    (found,) = over(folds(*means), test_ratios=dict.fromkeys(folds(*means), 1 / 4))
    error = math.sqrt((1 / 5 + 1 / 4) * np.var(means, ddof=1))
    assert found.difference.error == pytest.approx(error)
    assert found.difference.t_p == pytest.approx(2 * stats.t.sf(np.mean(means) / error, 4))
    half = stats.t.ppf(0.975, 4) * error
    assert found.difference.interval == pytest.approx((1.6 - half, 1.6 + half))
    assert found.signed_rank_p is None
    uncorrected = stats.ttest_1samp(means, 0).pvalue
    assert found.difference.t_p > uncorrected


def test_three_folds_are_too_few():
    for number, has_p in ((3, False), (4, True)):
        standings = folds(*(5.0 + 0.1 * i for i in range(number)))
        (found,) = over(standings, test_ratios=dict.fromkeys(standings, 1 / (number - 1)))
        assert (found.p is not None) is has_p


# --- one dataset left out


def test_a_dataset_that_decides_alone_is_named():
    means = {"a": 9.0, "b": 0.1, "c": 0.0, "d": -0.1}
    standings = {n: standing(CE=flat(6), FL=around(m, 6)) for n, m in means.items()}
    found = over(standings)
    assert found[0].decision == "higher"
    (left,) = with_left_out(found, standings, "CE")
    assert left.without == {"a": "undecided"}


def test_nothing_is_named_if_the_rest_is_too_little_for_a_verdict():
    standings = {n: standing(CE=flat(2), FL=around(9.0, 2)) for n in "ab"}
    found = over(standings)
    assert with_left_out(found, standings, "CE")[0].without == {}
