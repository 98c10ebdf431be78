"""A resumed run ends like an uninterrupted one, bit for bit, including its predictions."""

import os
import signal
import time

import pytest

from focal_plugin.engine.processes.stop_requests import SAME_REQUEST_S

from .planted import Change, DrawnSeed, Hold, hold_at
from .runs import (
    DRAWS_AND_COUNTS,
    ITERATIONS,
    SOON_S,
    TWO_PROCESSES,
    WARMS_UP_AND_BALANCES,
    checkpoint,
    differences,
)

FILE = "focal_plugin.files:UnfinishedFile"
EVALUATOR = "detectron2.evaluation.coco_evaluation:COCOEvaluator.process"
KILLED = {  # moment -> breakpoint, and the iteration at which the run resumes
    "before the first checkpoint": (hold_at(1), 0),
    "after a checkpoint": (hold_at(3), 3),
    "between two checkpoints": (hold_at(5), 3),
    "while the first checkpoint is written": (Hold(f"{FILE}.write", 9, "model_0000002.pth'"), 0),
    "while a checkpoint is written": (Hold(f"{FILE}.write", 9, "model_0000005.pth'"), 3),
    "before it takes its place": (Hold(f"{FILE}.finish", 1, "model_0000005.pth'"), 3),
    "before its manifest is there": (Hold(f"{FILE}.finish", 1, "model_0000005.pth.sha256'"), 3),
    "before it is the last": (
        Hold("focal_plugin.engine.checkpoints.checkpointer:set_last_file", 2),
        3,
    ),
    "in the last evaluation": (Hold(EVALUATOR, 6), 8),
}


def unfinished(folder):
    return [file.name for file in folder.glob(".*.tmp")]


@pytest.fixture(scope="module")
def killed_and_resumed(runs_in, tmp_path_factory, in_background):
    """Return moment -> the unfinished files at that time, and the resumed run."""

    def kill_and_resume(runs, place):
        run = runs.start(plants=[place])
        run.held()
        run.kill()
        return unfinished(runs.output), runs.resume().succeed()

    return {
        name: in_background(kill_and_resume, runs_in(tmp_path_factory.mktemp("moment")), place)
        for name, (place, _) in KILLED.items()
    }


@pytest.mark.parametrize("moment", KILLED)
def test_killed_at_any_moment_it_goes_on_as_if_nothing_was(killed_and_resumed, reference, moment):
    left, resumed = killed_and_resumed[moment].result()
    assert resumed.started_at(KILLED[moment][1])
    assert any("model_" in name for name in left) == (moment in list(KILLED)[3:7])
    assert not unfinished(resumed.output)
    assert differences(reference(), resumed.output) == []


def test_the_comparison_sees_a_difference(reference):
    assert len(differences(reference(), reference("two processes"))) > 50


def test_the_script_killed_and_resumed_by_a_user_ends_the_same(runs, reference):
    run = runs.start(DATALOADER__NUM_WORKERS=2)
    while not (run.output / "model_0000002.pth").exists():
        assert not run.ended(), run.text
        time.sleep(0.001)
    run.kill()
    assert not (run.output / "model_final.pth").exists()
    resumed = runs.resume(DATALOADER__NUM_WORKERS=1).succeed()
    assert resumed.started_at(3) or resumed.started_at(0) or resumed.started_at(6)
    assert differences(reference(), resumed.output) == []


def test_a_run_with_workers_killed_is_resumed_with_none(runs, reference):
    run = runs.start(plants=[hold_at(5)], DATALOADER__NUM_WORKERS=2)
    run.held()
    run.kill()
    runs.resume().succeed()
    assert differences(reference(), runs.output) == []


def test_killed_twice_and_with_other_workers_it_ends_the_same(runs, reference):
    for iteration, workers in ((4, 0), (6, 1)):
        held = hold_at(iteration - (3 if workers else 0))
        run = runs.resume(plants=[held], DATALOADER__NUM_WORKERS=workers)
        run.held()
        run.kill()
    runs.resume(DATALOADER__NUM_WORKERS=2).succeed()
    assert differences(reference(), runs.output) == []


@pytest.mark.parametrize(
    ("number", "group", "workers"),
    [
        (signal.SIGTERM, False, 0),
        (signal.SIGUSR1, False, 2),
        (signal.SIGTERM, True, 2),
        (signal.SIGUSR1, True, 0),
        (signal.SIGINT, False, 2),
        (signal.SIGINT, True, 0),
    ],
)
def test_asked_to_end_it_finishes_the_step_saves_and_goes_on(
    runs, reference, number, group, workers
):
    # On a busy machine two signals arrive at different times.
    one_request = Change("focal_plugin.engine.processes.stop_requests:SAME_REQUEST_S", 60.0)
    run = runs.start(plants=[hold_at(4), one_request], DATALOADER__NUM_WORKERS=workers)
    run.held()
    run.send(number, group=group).send(number, group=group).go_on()
    assert run.wait() == (130 if number == signal.SIGINT else 143)
    assert checkpoint(run.output / "model_0000004.pth")["iteration"] == 4
    assert f"{number.name}: the run ends after this step, with a checkpoint" in run.text
    assert f"{number.name}: ended after iteration 4; the same command with --resume" in run.text
    assert "Traceback" not in run.text
    resumed = runs.resume(DATALOADER__NUM_WORKERS=2 - workers).succeed()
    assert resumed.started_at(5)
    assert differences(reference(), run.output) == []


def test_asked_to_end_in_the_last_evaluation_it_evaluates_later(runs, reference):
    run = runs.start(plants=[Hold(EVALUATOR, 6)])
    run.held()
    run.send(signal.SIGTERM).go_on()
    assert run.wait() == 143
    assert not (run.output / "inference/coco_instances_results.json").exists()
    runs.resume().succeed()
    assert differences(reference(), run.output) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_request_ends_it_at_once(runs, number):
    run = runs.start(plants=[hold_at(4)])
    run.held()
    run.send(number)
    time.sleep(SAME_REQUEST_S + 0.1)
    run.send(number)
    assert run.wait(SOON_S) == -number
    assert not (run.output / "model_0000004.pth").exists()


def test_interrupted_before_the_first_step_it_says_so_and_starts_again(runs, reference):
    run = runs.start(plants=[Hold("focal_plugin.engine.trainer:Trainer.build_model", 1)])
    run.held()
    run.send(signal.SIGINT, group=True).go_on()
    assert run.wait() == 130
    assert run.last_line.startswith("Interrupted; no step was lost")
    assert "Traceback" not in run.text
    assert runs.start().succeed().started_at(0)
    assert differences(reference(), run.output) == []


def test_two_processes_killed_go_on(runs, reference):
    run = runs.start(*TWO_PROCESSES, plants=[hold_at(5)], DATALOADER__NUM_WORKERS=1)
    run.held(0), run.held(1)
    run.send(signal.SIGKILL, group=True).wait()
    assert runs.resume(*TWO_PROCESSES).succeed().started_at(3)
    assert differences(reference("two processes"), run.output) == []


@pytest.mark.parametrize("group", [False, True], ids=["the first", "all"])
def test_two_processes_asked_to_end_save_the_same_step(runs, reference, group):
    run = runs.start(*TWO_PROCESSES, plants=[hold_at(4)], DATALOADER__NUM_WORKERS=int(group))
    run.held(0), run.held(1)
    number = signal.SIGINT if group else signal.SIGTERM
    run.send(number, group=group).go_on()
    assert run.wait() == 128 + number
    assert runs.resume(*TWO_PROCESSES).succeed().started_at(5)
    assert differences(reference("two processes"), run.output) == []


def test_a_request_to_one_of_two_processes_ends_both(runs, reference):
    run = runs.start(*TWO_PROCESSES, plants=[hold_at(4)])
    run.held(0)
    os.kill(run.held(1), signal.SIGTERM)
    run.go_on()
    assert run.wait() == 143
    assert "A signal to another process: ended after iteration 4" in run.text
    assert runs.resume(*TWO_PROCESSES).succeed().started_at(5)
    assert differences(reference("two processes"), run.output) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_model_that_draws_at_random_and_counts_goes_on(runs, reference, how):
    run = runs.start(plants=[hold_at(4)], **DRAWS_AND_COUNTS)
    run.held()
    run.send(how).go_on()
    assert run.wait() in {-signal.SIGKILL, 143}
    runs.resume(**DRAWS_AND_COUNTS).succeed()
    assert differences(reference("two stages"), run.output) == []
    counts = checkpoint(run.output / "model_final.pth")["model"][
        "roi_heads.box_predictor.cls_loss.counts"
    ]
    assert counts.sum() > 0


def test_an_assigner_that_warms_up_and_a_balance_go_on(runs, reference):
    run = runs.start(plants=[hold_at(4)], **WARMS_UP_AND_BALANCES)
    run.held()
    run.kill()
    runs.resume(**WARMS_UP_AND_BALANCES).succeed()
    assert differences(reference("warms up and balances"), run.output) == []
    weights = checkpoint(run.output / "model_final.pth")["model"]
    assert weights["assigner.steps"] == ITERATIONS
    assert (weights["balance.squares"] > 0).all()


def test_a_seed_that_was_drawn_is_kept(runs, reference):
    seed = checkpoint(reference() / "model_final.pth")["focal_plugin"]["identity"]["SEED"]
    run = runs.start(plants=[DrawnSeed(seed), hold_at(4)], SEED=-1)
    run.held()
    run.kill()
    runs.resume(plants=[DrawnSeed(seed + 1)], SEED=-1).succeed()
    assert differences(reference(), run.output) == []
