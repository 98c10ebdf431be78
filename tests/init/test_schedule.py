"""focal_plugin/init/schedule.py: what fits the time and the memory."""

import dataclasses
import re

import pytest

from focal_plugin.init.duration import parse_duration
from focal_plugin.init.recipes import RECIPES, SMALL
from focal_plugin.init.schedule import SHARE, Task, fit_batch, fit_schedule, linear_rate

COST = {"batch": 8, "step_s": 0.4, "test_image_s": 0.05}
TASK = Task(budget_s=7200, runs=42, jobs=1, train_images=205, test_images=87)


def test_all_runs_fit_the_planned_share_of_the_budget():
    found = fit_schedule(TASK, SMALL, **COST)
    assert 0.9 * SHARE * TASK.budget_s < found.total_s <= SHARE * TASK.budget_s
    assert not found.is_full


def test_twice_the_jobs_halve_the_time_of_each_run_and_a_started_round_counts():
    one = fit_schedule(TASK, SMALL, **COST).iterations
    assert fit_schedule(TASK._replace(jobs=2), SMALL, **COST).iterations > 1.8 * one
    half = fit_schedule(TASK._replace(jobs=40), SMALL, **COST)  # two rounds
    assert half.total_s == pytest.approx(
        fit_schedule(TASK._replace(jobs=21), SMALL, **COST).total_s
    )


def test_evaluations_take_a_limited_share_unless_there_is_only_one():
    slow = fit_schedule(TASK, SMALL, **{**COST, "test_image_s": 0.5})
    assert slow.evaluations == 1
    assert fit_schedule(TASK._replace(budget_s=86400), SMALL, **COST).evaluations == 4


def test_a_long_budget_is_not_used_up():
    found = fit_schedule(TASK._replace(budget_s=1e6), SMALL, **COST)
    assert found.is_full
    assert found.iterations == 10 * SMALL.enough
    large = TASK._replace(budget_s=1e9, train_images=100_000)
    assert fit_schedule(large, SMALL, **COST).iterations == SMALL.most_passes * 100_000 / 8


def test_too_small_a_budget_is_an_error_with_one_that_is_large_enough():
    with pytest.raises(ValueError, match=r"--budget 5m is too small") as error:
        fit_schedule(TASK._replace(budget_s=300), SMALL, **COST)
    enough = re.search(r"give --budget (\w+)", str(error.value))[1]
    found = fit_schedule(TASK._replace(budget_s=parse_duration(enough)), SMALL, **COST)
    assert found.iterations >= SMALL.enough
    assert not found.is_short


def test_a_schedule_below_enough_iterations_is_short():
    found = fit_schedule(TASK._replace(budget_s=3600), SMALL, **COST)
    assert SMALL.least <= found.iterations < SMALL.enough
    assert found.is_short
    assert found.enough_s > 3600


def test_the_batch_is_halved_until_it_fits_and_the_rate_follows():
    fits = {"image_bytes": 1e9, "weights": 10**6}
    assert fit_batch(SMALL, memory=64e9, **fits) == 8
    assert fit_batch(SMALL, memory=9e9, **fits) == 4
    assert fit_batch(SMALL, memory=1e6, **fits) == 1
    assert linear_rate(SMALL, 4) == 0.0125
    assert linear_rate(dataclasses.replace(SMALL, lr=0.01), 16) == 0.01


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_is_consistent(recipe):
    assert 0 < recipe.least < recipe.enough
    assert list(recipe.input_sizes) == sorted(recipe.input_sizes)
    assert all(0 < a < b < 1 for a, b in zip(recipe.steps, recipe.steps[1:], strict=False))
    assert recipe.batch & (recipe.batch - 1) == 0
