"""A NaN in a loss or a gradient never reaches the weights or a checkpoint."""

import json
import re
import time

import pytest

from focal_plugin.compare.running.failure import explain_failure, read_log_tail

from .planted import NotFinite, Overflow, SpoiledImages
from .runs import ITERATIONS, SOON_S, TWO_PROCESSES, TWO_STAGE, checkpoint, not_finite

WHERE = ["loss", "gradient"]


def scalars(output):
    lines = (output / "metrics.json").read_text().splitlines()
    return {key: value for line in lines for key, value in json.loads(line).items()}


def left_out(output):
    return checkpoint(output / "model_final.pth")["trainer"]["nonfinite"]["left_out"]


@pytest.mark.parametrize("where", WHERE)
def test_by_default_it_ends_the_run_and_says_what_it_was(runs, where):
    run = runs.start(plants=[NotFinite(4, where)])
    assert run.wait() == 1
    message = run.text[run.text.rindex("NonFiniteError: ") :]
    assert {"loss": "loss_cls is nan", "gradient": "a gradient is not finite"}[where] in message
    assert "at iteration 4" in message
    assert len(run.told("images0")) == 2
    for file in run.told("images0"):
        assert file in message
    assert checkpoint(run.output / "model_0000002.pth")["iteration"] == 2
    assert not (run.output / "model_0000005.pth").exists()
    assert not_finite(run.output) == []


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_if_asked_to_it_goes_on_without_the_step(runs, where, policy):
    run = runs.start(
        plants=[NotFinite(4, where)],
        MODEL__FOCAL__NONFINITE__POLICY=policy,
        SOLVER__CHECKPOINT_PERIOD=1,
    )
    assert run.wait() == 0, run.text[-3000:]
    assert left_out(run.output) == 1
    assert "at iteration 4" in run.text
    assert scalars(run.output)["nonfinite/left_out"] == 1
    assert len(list(run.output.glob("model_*.pth"))) >= ITERATIONS
    assert not_finite(run.output) == []


def test_a_learning_rate_that_is_much_too_high_ends_the_run(runs):
    run = runs.start(SOLVER__BASE_LR=1e8, SOLVER__WARMUP_ITERS=0, SOLVER__CHECKPOINT_PERIOD=1)
    assert run.wait() == 1
    message = run.text[run.text.rindex("NonFiniteError: ") :]
    assert "SOLVER.BASE_LR 1e+08" in message
    # The reason that a comparison shows
    reason = explain_failure(1, read_log_tail(run.log, 0))
    assert re.fullmatch(r"loss_\w+ is (nan|inf) at iteration \d", reason)
    assert list(run.output.glob("model_*.pth"))
    assert not_finite(run.output) == []


def test_steps_left_out_one_after_the_other_come_to_an_end(runs):
    run = runs.start(
        SOLVER__BASE_LR=1e12,
        SOLVER__WARMUP_ITERS=0,
        MODEL__FOCAL__NONFINITE__POLICY="skip",
        MODEL__FOCAL__NONFINITE__MAX_IN_A_ROW=2,
    )
    assert run.wait() == 1
    assert "the last 2 steps were skipped" in run.text
    assert not_finite(run.output) == []


def test_a_statistic_that_overflows_is_not_saved(runs):
    run = runs.start(plants=[Overflow(4)])
    assert run.wait() == 1  # 2 would mean that nothing was written
    assert "model_0000005.pth was not saved" in run.last_line
    assert "norm.running_var are not finite" in run.last_line
    assert (run.output / "last_checkpoint").read_text() == "model_0000002.pth"
    assert not_finite(run.output) == []


@pytest.mark.parametrize("where", WHERE)
def test_a_fault_of_one_process_ends_all_and_names_its_images(runs, where):
    run = runs.start(*TWO_PROCESSES, plants=[NotFinite(4, where, rank=1)])
    start = time.monotonic()
    assert run.wait() == 1
    message = run.text[run.text.rindex("NonFiniteError: ") :]
    assert time.monotonic() - start < SOON_S
    (file,) = run.told("images1")
    assert file in message
    assert run.text.count(" failed:\nTraceback") == 1
    assert not_finite(run.output) == []


@pytest.mark.parametrize("where", WHERE)
def test_all_processes_leave_out_the_step_of_one(runs, where):
    run = runs.start(
        *TWO_PROCESSES,
        plants=[NotFinite(4, where, rank=1)],
        MODEL__FOCAL__NONFINITE__POLICY="skip",
    )
    assert run.wait() == 0, run.text[-3000:]
    assert left_out(run.output) == 1
    assert not_finite(run.output) == []


def test_all_processes_leave_out_the_step_in_which_one_has_no_finite_proposals(runs):
    run = runs.start(
        *TWO_PROCESSES,
        plants=[SpoiledImages(4, rank=1)],
        config=TWO_STAGE,
        MODEL__FOCAL__NONFINITE__POLICY="skip",
    )
    assert run.wait() == 0, run.text[-3000:]
    assert left_out(run.output) == 1
    assert "the model's predictions are not finite at iteration 4" in run.text
    assert not_finite(run.output) == []
