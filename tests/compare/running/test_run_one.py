"""Tests of one run: finished, failed, stopped, resumed and without its parent."""

import fcntl
import json
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from focal_plugin.compare.running import run_one as run_one_module
from focal_plugin.compare.running import trainer_process
from focal_plugin.compare.running.claim import read_newest, take
from focal_plugin.compare.running.failure import explain_failure
from focal_plugin.compare.running.run_one import run_one
from focal_plugin.compare.running.trainer_process import Urgency
from focal_plugin.compare.runs.result import Result
from focal_plugin.compare.runs.status import Status
from focal_plugin_allocator import SWITCH, allocator_variables

from .fakes import (
    LEASE,
    fake_run,
    fake_task,
    in_background,
    is_alive,
    lines_of,
    trainers,
    wait_until,
)

pytestmark = pytest.mark.slow

LONG = {"steps": 300, "step_s": 0.1}


def train(task, **more):
    return run_one(task, environment=os.environ, **more)


def train_until(task, condition, urgency=Urgency.STOP):
    """Train, and request ``urgency`` as soon as the condition holds."""
    return train(task, urgency=lambda: urgency if condition() else Urgency.GO_ON)


def written(task):
    return json.loads((task.folder / "env.json").read_text())


def test_a_finished_run_has_a_result_and_is_not_trained_again(tmp_path):
    task = fake_task(tmp_path)
    for _ in range(2):
        assert train(task) == Status.read(task.folder) == Status("done", attempts=1)
    result = Result.read(task.folder)
    assert (result.arm, result.seed, result.iterations) == ("CE", 1, 5)
    assert (result.ap["AP"], result.ap["AP75"]) == (20.0, None)
    assert result.ap_per_class == {"disc": 30.0, "plus": None}
    assert (result.iteration_s, result.versions) == (0.01, {"python": "3"})
    assert result.config_hash == task.run.config_hash
    assert result.peak_memory_mib > 5
    assert len(trainers(task.folder)) == 1
    assert not is_alive(trainers(task.folder)[0])


@pytest.mark.parametrize(
    ("behavior", "exit_code", "reason"),
    [
        ("nan", 1, "loss became NaN or infinite at iteration 3: loss_cls nan"),
        ("disk_full", 1, "disk full: OSError: [Errno 28] No space left on device"),
        ("killed", -signal.SIGKILL, "ended by SIGKILL, possibly out of memory"),
        ("exit", 7, "exit code 7: iteration 3"),
        ("no_evaluation", 0, "left no result: metrics.json has no evaluation after iteration 4"),
    ],
)
def test_a_failure_has_a_reason_an_exit_code_and_the_last_lines(
    tmp_path, behavior, exit_code, reason
):
    task = fake_task(tmp_path, fake_run(behavior=behavior))
    status = train(task)
    assert (status.state, status.exit_code, status.attempts) == ("failed", exit_code, 1)
    assert status.reason.endswith(reason)
    assert "iteration 2" in status.log_tail
    assert Status.read(task.folder) == status
    assert Result.read(task.folder) is None


def test_a_failed_run_is_retried_once_on_request_with_its_latest_reason(tmp_path):
    run = fake_run(behavior="nan")
    assert train(fake_task(tmp_path, run)).attempts == 1
    assert train(fake_task(tmp_path, run)).attempts == 1
    again = fake_task(tmp_path, run, retry=1)
    status = train(again)
    assert (status.attempts, status.log_tail[0]) == (2, "iteration 3")
    assert train(again).attempts == 2, "another sweep has tried it again already"


def test_the_reason_is_the_last_exception_and_short():
    traceback = (
        "ValueError: the first",
        "During handling of the above exception, another exception occurred:",
        "Traceback (most recent call last):",
        '    raise KeyError("x")',
        "torch.cuda.OutOfMemoryError: CUDA out of memory. " + 1000 * "x",
        "See https://example.org",
        "[INFO] AssertionError: somewhere in a line is not one",
    )
    reason = explain_failure(1, traceback)
    assert reason.startswith("torch.cuda.OutOfMemoryError: CUDA out of memory.")
    assert len(reason) == 300
    assert explain_failure(1, ("AssertionError",)) == "AssertionError"
    assert explain_failure(-15, ()) == "ended by SIGTERM"
    assert explain_failure(3, ()) == "exit code 3: no output"


def test_a_nan_of_numpy_2_reads_like_any_other():
    tail = (
        "FloatingPointError: Loss became infinite or NaN at iteration=12!",
        "loss_dict = {'loss_cls': np.float64(nan), 'loss_box_reg': 0.5}",
    )
    expected = "loss became NaN or infinite at iteration 12: loss_cls nan, loss_box_reg 0.5"
    assert explain_failure(1, tail) == expected


def test_a_non_finite_step_is_reported_without_its_images():
    tail = (
        "focal_plugin.engine.nonfinite.NonFiniteError: loss_cls is nan at iteration 12; images 7 "
        "(a at iteration 1.png). The weights are those before this step",
        "  losses: loss_cls nan, loss_box_reg 0.5",
    )
    assert explain_failure(1, tail) == "loss_cls is nan at iteration 12"


def test_at_most_fifty_lines_of_a_long_log_are_kept(tmp_path):
    task = fake_task(tmp_path, fake_run(steps=120, step_s=0, behavior="no_evaluation"))
    assert train(task).log_tail == tuple(f"iteration {i}" for i in range(70, 120))


def test_the_end_of_a_trainer_is_noticed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_process, "POLL_S", 20.0)
    start = time.monotonic()
    assert train(fake_task(tmp_path)).state == "done"
    assert time.monotonic() - start < 15


def test_a_stopped_run_is_pending_and_resumes_from_its_checkpoint(tmp_path):
    task = fake_task(tmp_path, fake_run(steps=60, step_s=0.05))
    stopped = train_until(task, lambda: len(lines_of(task.folder / "iterations")) > 3)
    assert stopped == Status.read(task.folder) == Status("pending", attempts=1)
    assert not is_alive(trainers(task.folder)[-1])
    assert read_newest(task.folder).released
    assert train(task) == Status("done", attempts=2)
    assert lines_of(task.folder / "iterations") == [str(i) for i in range(60)]


def test_a_run_that_a_scheduler_stopped_is_pending(tmp_path):
    task = fake_task(tmp_path, fake_run(behavior="preempted"))
    assert train(task) == Status("pending", attempts=1)


def test_a_trainer_that_does_not_stop_is_killed_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_process, "STOP_S", 1.0)
    task = fake_task(tmp_path, fake_run(**LONG, behavior="deaf"))
    start = time.monotonic()
    assert train_until(task, lambda: lines_of(task.folder / "iterations")).state == "pending"
    assert 1 < time.monotonic() - start < 20
    assert not is_alive(trainers(task.folder)[-1])


def test_kill_does_not_wait(tmp_path):
    task = fake_task(tmp_path, fake_run(**LONG, behavior="deaf"))
    ready = lambda: lines_of(task.folder / "iterations")  # noqa: E731
    start = time.monotonic()
    assert train_until(task, ready, Urgency.KILL).state == "pending"
    assert time.monotonic() - start < trainer_process.STOP_S / 2


def test_a_parent_that_ignores_sigterm_has_a_trainer_that_does_not(tmp_path):
    task = fake_task(tmp_path, fake_run(**LONG))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        status = train_until(task, lambda: lines_of(task.folder / "iterations"))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert status.state == "pending"
    assert lines_of(task.folder / "train.log")[-1] == "stopped"


def test_leftover_processes_of_a_trainer_end_with_it(tmp_path):
    task = fake_task(tmp_path, fake_run(behavior="leaves_child"))
    assert train(task).state == "done"
    child = int(lines_of(task.folder / "children")[0])
    wait_until(lambda: not is_alive(child))


def test_a_stop_before_the_start_prevents_the_start(tmp_path):
    task = fake_task(tmp_path)
    assert train(task, urgency=lambda: Urgency.STOP) == Status()
    assert not task.folder.exists()


def test_a_run_with_an_owner_is_not_trained(tmp_path):
    task = fake_task(tmp_path)
    task.folder.mkdir()
    with take(task.folder, lease=LEASE):
        status = train(task)
    assert status.state == "running"
    assert status.reason.startswith(f"held by process {os.getpid()} on ")
    assert trainers(task.folder) == []


def test_a_run_that_finished_just_before_the_claim_is_not_trained_again(tmp_path, monkeypatch):
    task = fake_task(tmp_path)

    def take_late(folder, **options):
        monkeypatch.undo()
        assert train(task).state == "done"
        return take(folder, **options)

    monkeypatch.setattr(run_one_module, "take", take_late)
    assert train(task) == Status("done", attempts=1)
    assert len(trainers(task.folder)) == 1


def test_an_owner_without_its_claim_stops_its_trainer_and_writes_nothing(tmp_path):
    task = fake_task(tmp_path, fake_run(**LONG))

    def take_over():
        wait_until(lambda: lines_of(task.folder / "iterations"))
        (task.folder / "claim.2").write_text("{}")  # its writer is the new owner
        Status("failed", "written by the new owner").write(task.folder)

    thread = threading.Thread(target=take_over)
    thread.start()
    status = train(task)
    thread.join()
    assert (status.state, status.reason) == ("running", "another command took it over")
    assert Status.read(task.folder).reason == "written by the new owner"
    assert lines_of(task.folder / "finishes") == []
    assert not is_alive(trainers(task.folder)[-1])


def test_a_result_without_its_status_is_done(tmp_path):
    """The process crashed between writing the two files."""
    task = fake_task(tmp_path)
    train(task)
    Status("running", attempts=1).write(task.folder)
    assert train(task) == Status("done", attempts=1)
    assert len(trainers(task.folder)) == 1


def test_a_trainer_dies_with_its_parent_and_another_one_resumes(tmp_path):
    task = fake_task(tmp_path, fake_run(steps=40, step_s=0.05, behavior="deaf"))
    owner = in_background(train, task)
    wait_until(lambda: len(lines_of(task.folder / "iterations")) > 2)
    os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(trainers(task.folder)[0]))
    owner.join()
    assert Status.read(task.folder).state == "running"
    assert train(task) == Status("done", attempts=2)
    assert len(lines_of(task.folder / "finishes")) == 1


def test_no_trainer_starts_beside_a_leftover_one(tmp_path):
    task = fake_task(tmp_path)
    task.folder.mkdir()
    with (task.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=train, args=(task,))
        thread.start()
        time.sleep(0.5)
        assert trainers(task.folder) == []
    thread.join()
    assert Status.read(task.folder).state == "done"


def test_a_trainer_gets_arguments_environment_and_folder_as_they_are(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    run = fake_run("$(touch x); `touch x` & <b>", datasets=("a=/b.json:c d", "e=f.json:g"))
    run = replace(run, ignore_categories=("no class",), trainer_flags=("trust-pickle",))
    task = fake_task(tmp_path, run, num_gpus=2, directory=tmp_path / "elsewhere")
    environment = {"PATH": os.environ["PATH"], "ONLY": "this"}
    assert run_one(task, environment=environment).state == "done"
    assert written(task)["arguments"] == [
        *("--resume", "--config-file", "/config.yaml", "--dataset", "a=/b.json:c d"),
        *("--dataset", f"e={tmp_path}/f.json:g", "--ignore-category", "no class", "--trust-pickle"),
        *("--num-gpus", "2"),
        *run.opts,
        *("OUTPUT_DIR", str(task.folder)),
    ]
    variables = written(task)["variables"]
    assert variables["ONLY"] == "this"
    assert "HOME" not in variables
    assert os.listdir(tmp_path / "elsewhere") == []
    assert sorted(os.listdir(tmp_path)) == sorted(["elsewhere", task.folder.name])


@pytest.mark.parametrize("num_gpus", [0, 1])
def test_a_trainer_without_a_gpu_has_the_tuned_allocator(tmp_path, num_gpus):
    task = fake_task(tmp_path, num_gpus=num_gpus)
    assert run_one(task, environment={"PATH": os.environ["PATH"]}).state == "done"
    added = allocator_variables({}, on_gpu=num_gpus > 0)
    assert {name: written(task)["variables"].get(name) for name in added} == added
    assert (SWITCH in written(task)["variables"]) == bool(added)


@pytest.mark.parametrize("arm", ["../../x", "/etc/x", ".hidden", "a\nb", "=1+1", "x" * 80, "é"])
def test_an_arm_with_a_hostile_name_stays_in_its_folder(tmp_path, arm):
    (tmp_path / "runs").mkdir()
    task = fake_task(tmp_path / "runs", fake_run(arm))
    assert train(task).state == "done"
    assert os.listdir(tmp_path) == ["runs"]
    assert os.listdir(tmp_path / "runs") == [task.folder.name]
