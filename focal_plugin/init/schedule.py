"""Iterations, batch and learning rate that fit the time and the memory there is."""

from __future__ import annotations

import math
from typing import NamedTuple

from .duration import duration_argument
from .recipes import Recipe

SHARE = 0.9
"""Share of the budget that is planned; the rest is for what no few steps show."""

RUN_S = 15.0
"""Time of a run beside its steps and evaluations, in seconds: imports, checks, checkpoints."""

EVALUATION_S = 2.0
"""Time of an evaluation beside the detection, in seconds."""

EVALUATIONS = (4, 2)
"""Evaluations of a run to choose from, if there is time for more than one."""

EVALUATION_SHARE = 0.2
"""Largest share of a run for more than one evaluation."""

MEMORY_SHARE = 0.5
"""Share of the memory for what a step keeps; the rest is for its temporary tensors."""

COPIES = 3
"""Tensors for each weight: itself, its gradient and its momentum."""


class Task(NamedTuple):
    """
    Work that the budget is for.

    Attributes:
        budget_s: time for all runs, in seconds.
        runs: arms times seeds.
        jobs: runs at a time.
        train_images, test_images: images of a pass, and of an evaluation.
    """

    budget_s: float
    runs: int
    jobs: int
    train_images: int
    test_images: int


class Schedule(NamedTuple):
    """
    Schedule of every run.

    Attributes:
        iterations: iterations of a run.
        evaluations: evaluations of a run, the last one after training.
        total_s: time for all runs, in seconds.
        is_short: True if the iterations are fewer than the recipe's ``enough``.
        is_full: True if more iterations would not help, so that the budget is not used up.
        enough_s: the budget for ``enough`` iterations, in seconds.
    """

    iterations: int
    evaluations: int
    total_s: float
    is_short: bool
    is_full: bool
    enough_s: float


def fit_schedule(
    task: Task, recipe: Recipe, *, batch: int, step_s: float, test_image_s: float
) -> Schedule:
    """
    Return the longest useful schedule that fits the budget.

    Args:
        batch: images of a step.
        step_s: time of a step, in seconds.
        test_image_s: time of a test image, in seconds.

    Raises:
        ValueError: the budget is too small for the recipe's ``least`` iterations; the message has
            the smallest budget.
    """
    rounds = math.ceil(task.runs / task.jobs)
    evaluation_s = EVALUATION_S + task.test_images * test_image_s

    def budget_for(iterations: int) -> float:
        return rounds * (RUN_S + evaluation_s + iterations * step_s) / SHARE

    run_s = SHARE * task.budget_s / rounds
    if budget_for(recipe.least) > task.budget_s:
        raise ValueError(
            f"--budget {duration_argument(task.budget_s)} is too small: {task.runs} runs get "
            f"{run_s:.0f} s each, but {recipe.least} iterations of {step_s:.2g} s and an "
            f"evaluation take {RUN_S + evaluation_s + recipe.least * step_s:.0f} s; give --budget "
            f"{duration_argument(budget_for(recipe.enough))} or more, or fewer --seeds"
        )

    def affordable_with(evaluations: int) -> int:
        return _rounded((run_s - RUN_S - evaluations * evaluation_s) / step_s)

    several = [
        n
        for n in EVALUATIONS
        if n * evaluation_s <= EVALUATION_SHARE * run_s and affordable_with(n) >= recipe.enough
    ]
    evaluations = several[0] if several else 1
    affordable = affordable_with(evaluations)
    most = max(10 * recipe.enough, round(recipe.most_passes * task.train_images / batch))
    iterations = max(recipe.least, min(affordable, most))
    return Schedule(
        iterations=iterations,
        evaluations=evaluations,
        total_s=rounds * (RUN_S + evaluations * evaluation_s + iterations * step_s),
        is_short=iterations < recipe.enough,
        is_full=affordable > most,
        enough_s=budget_for(recipe.enough),
    )


def fit_batch(recipe: Recipe, *, image_bytes: float, weights: int, memory: float) -> int:
    """
    Return the batch of the recipe, halved until it fits the memory; at least 1.

    Args:
        image_bytes: memory that a step keeps for each image.
        weights: number of weights of the model, float32.
        memory: bytes that there are for a run.
    """
    left = MEMORY_SHARE * memory - 4 * COPIES * weights
    batch = recipe.batch
    while batch > 1 and batch * image_bytes > left:
        batch //= 2
    return batch


def linear_rate(recipe: Recipe, batch: int) -> float:
    """Return the learning rate for a batch, in proportion to that of the recipe."""
    return float(f"{recipe.lr * batch / recipe.lr_batch:.4g}")


def _rounded(iterations: float) -> int:
    """Return the iterations rounded down to two digits, so that nobody takes them for exact."""
    whole = max(0, int(iterations))
    unit = 10 ** max(0, len(str(whole)) - 2)
    return whole // unit * unit
