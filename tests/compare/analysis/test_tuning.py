"""Tests of the choice of a setting from the trials of an arm."""

import json

import pytest

from focal_plugin.compare.analysis.tuning import best_settings, tune
from focal_plugin.compare.plan.setting import EQUAL, Setting
from focal_plugin.compare.runs.run_folder import read_run_folders

from ..fake_comparison import FakeArm, change_result, write_comparison


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """Provide a comparison in which a higher learning rate finds more objects."""
    folder = tmp_path_factory.mktemp("tried")
    arms = {"CE": FakeArm(0.3), "FL": FakeArm(0.5)}
    return write_comparison(folder, arms, factors=(0.5, 1.0, 2.0)), folder


def give(comparison, folder, values):
    """Give the trials of a setting an AP by its pair of factors, 1 more for each seed."""
    for run in comparison.of_role("tuning"):
        pair = (run.setting.lr_factor, run.setting.weight_factor)
        ap = values.get(pair)
        if ap is None:
            (folder / run.id / "result.json").unlink(missing_ok=True)
        else:
            change_result(folder / run.id, ap={"AP": ap + run.seed - 102})


def chosen(folder, values, *, factors=(), weights=()):
    comparison = write_comparison(folder, {"CE": FakeArm()}, factors=factors, weights=weights)
    give(comparison, folder, values)
    return tune(comparison, read_run_folders(comparison, folder))["CE"]


def remove_trials(comparison, folder, arm, factors):
    for run in comparison.of_role("tuning"):
        if run.arm == arm and run.setting.lr_factor in factors:
            (folder / run.id / "result.json").unlink(missing_ok=True)


def test_the_best_setting_has_the_highest_mean_ap(tried):
    comparison, folder = tried
    tuned = tune(comparison, read_run_folders(comparison, folder))["CE"]
    assert tuned.best == max(tuned.trials, key=lambda each: each.ap).setting == Setting(2.0)
    assert (tuned.base_lr, tuned.weight) == (0.02, None)
    assert (tuned.lr_at_edge, tuned.weight_at_edge) == (True, False)
    assert (tuned.train_images, tuned.val_images) == (32, 8)


def test_a_trial_that_failed_is_never_the_best_and_an_arm_without_any_has_none(tmp_path):
    arms = {"CE": FakeArm(0.3), "FL": FakeArm(0.3)}
    comparison = write_comparison(tmp_path, arms, factors=(0.5, 1.0, 2.0))
    remove_trials(comparison, tmp_path, "CE", [2.0])
    remove_trials(comparison, tmp_path, "FL", [0.5, 1.0, 2.0])
    folders = read_run_folders(comparison, tmp_path)
    tuned = tune(comparison, folders)
    assert (tuned["CE"].at(Setting(2.0)).ap, tuned["CE"].best) == (None, EQUAL)
    assert not tuned["CE"].lr_at_edge
    assert (tuned["FL"].best, tuned["FL"].base_lr, tuned["FL"].lr_at_edge) == (None, None, False)
    assert best_settings(comparison, folders) == {"CE": EQUAL}


def test_one_missing_seed_makes_a_setting_unknown(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm()}, factors=(1.0, 2.0))
    last = next(r for r in comparison.of_role("tuning") if (r.seed, r.setting) == (103, Setting(2)))
    (tmp_path / last.id / "result.json").unlink()
    tuned = tune(comparison, read_run_folders(comparison, tmp_path))["CE"]
    assert [each.ap is None for each in tuned.trials] == [False, True]


def test_the_values_of_the_seeds_have_a_mean_and_a_standard_deviation(tmp_path):
    tuned = chosen(tmp_path, {(1, 1): 20.0, (2, 1): 10.0}, factors=(1.0, 2.0))
    assert [(each.ap, each.std) for each in tuned.trials] == [(20.0, 1.0), (10.0, 1.0)]


@pytest.mark.parametrize(
    ("values", "best", "lr", "weight", "at_edge"),
    [
        ({(1, 1): 20, (0.5, 4): 21}, (0.5, 4), 0.005, 8.0, (True, False)),
        ({(1, 10): 30, (2, 1): 20}, (1, 10), 0.01, 20.0, (False, True)),
        ({(2, 10): 30}, (2, 10), 0.02, 20.0, (True, True)),
        # Distances: log 4 = 1.39; hypot(log 2, log 4) = 1.55; log 2 = .69
        ({(1, 4): 20, (2, 4): 20}, (1, 4), 0.01, 8.0, (False, False)),
        ({(1, 4): 20, (2, 1): 20}, (2, 1), 0.02, 2.0, (True, True)),
        ({(1, 1): 20, (2, 1): 20, (1, 4): 20}, (1, 1), 0.01, 2.0, (False, True)),
        ({(1, 10): 20, (2, 4): 20}, (2, 4), 0.02, 8.0, (True, False)),
    ],
)
def test_of_pairs_the_best_has_the_highest_ap_and_then_the_least_change(
    tmp_path, values, best, lr, weight, at_edge
):
    axes = {"factors": (0.5, 1.0, 2.0), "weights": (1.0, 4.0, 10.0)}
    tuned = chosen(tmp_path, values, **axes)
    assert tuned.best == Setting(*best)
    assert (tuned.base_lr, tuned.weight) == pytest.approx((lr, weight))
    assert (tuned.lr_at_edge, tuned.weight_at_edge) == at_edge
    assert len(tuned.trials) == 9


def test_an_axis_of_one_factor_has_no_edge(tmp_path):
    tuned = chosen(tmp_path, {(1, 4): 20, (1, 1): 10}, factors=(1.0,), weights=(1.0, 4.0))
    assert (tuned.lr_at_edge, tuned.weight_at_edge) == (False, True)


def test_trials_on_several_splits_count_with_the_mean_of_their_ap(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm()}, factors=(1.0, 2.0))
    for run in comparison.of_role("tuning"):
        own, other = {1.0: (20.0, None), 2.0: (4.0, 20.0)}[run.setting.lr_factor]
        change_result(tmp_path / run.id, ap={"AP": own}, ap_of_others={"more": {"AP": other}})
        file = tmp_path / run.id / "env.json"
        env = json.loads(file.read_text())
        env["datasets"] = {use: sets * 2 for use, sets in env["datasets"].items()}
        file.write_text(json.dumps(env))
    tuned = tune(comparison, read_run_folders(comparison, tmp_path))["CE"]
    assert [each.ap for each in tuned.trials] == [10.0, 12.0]  # a split without AP counts as 0
    assert tuned.best == Setting(2.0)
    assert (tuned.train_images, tuned.val_images) == (64, 16)


def test_a_comparison_that_tunes_nothing_has_no_best_settings(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm()})
    folders = read_run_folders(comparison, tmp_path)
    assert tune(comparison, folders) == best_settings(comparison, folders) == {}
