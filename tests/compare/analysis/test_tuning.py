"""Tests of the choice of a learning rate from the trials of an arm."""

import pytest

from focal_plugin.compare.analysis.tuning import best_factors, tune
from focal_plugin.compare.runs.run_folder import read_run_folders

from ..fake_comparison import FakeArm, write_comparison


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """Provide a comparison in which a higher learning rate finds more objects."""
    folder = tmp_path_factory.mktemp("tried")
    arms = {"CE": FakeArm(0.3), "FL": FakeArm(0.5)}
    return write_comparison(folder, arms, factors=(0.5, 1.0, 2.0)), folder


def remove_trials(comparison, folder, arm, factors):
    for run in comparison.of_role("tuning"):
        if run.arm == arm and run.lr_factor in factors:
            (folder / run.id / "result.json").unlink(missing_ok=True)


def test_the_best_factor_has_the_highest_ap(tried):
    comparison, folder = tried
    tuned = tune(comparison, read_run_folders(comparison, folder))["CE"]
    assert tuned.best == max(tuned.ap, key=tuned.ap.get) == 2.0
    assert tuned.at_edge


def test_a_trial_that_failed_is_never_the_best_and_an_arm_without_any_has_none(tmp_path):
    arms = {"CE": FakeArm(0.3), "FL": FakeArm(0.3)}
    comparison = write_comparison(tmp_path, arms, factors=(0.5, 1.0, 2.0))
    remove_trials(comparison, tmp_path, "CE", [2.0])
    remove_trials(comparison, tmp_path, "FL", [0.5, 1.0, 2.0])
    folders = read_run_folders(comparison, tmp_path)
    tuned = tune(comparison, folders)
    assert (tuned["CE"].ap[2.0], tuned["CE"].best, tuned["CE"].at_edge) == (None, 1.0, False)
    assert (tuned["FL"].best, tuned["FL"].at_edge) == (None, False)
    assert best_factors(comparison, folders) == {"CE": 1.0}


def test_a_comparison_that_tunes_nothing_has_no_best_factors(tmp_path):
    comparison = write_comparison(tmp_path, {"CE": FakeArm()})
    folders = read_run_folders(comparison, tmp_path)
    assert tune(comparison, folders) == best_factors(comparison, folders) == {}
