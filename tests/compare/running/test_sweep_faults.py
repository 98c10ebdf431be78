"""Tests of concurrent, killed, frozen and interrupted sweeps, and of failing runs."""

import os
import signal
import time

import pytest

from focal_plugin.compare.running import runner
from focal_plugin.compare.running.claim import read_newest
from focal_plugin.compare.running.runner import run_all
from focal_plugin.compare.runs.status import Status

from .fakes import (
    LEASE,
    PATIENCE_S,
    fake_options,
    fake_run,
    in_background,
    is_alive,
    lines_of,
    sweep,
    trainers,
    wait_until,
)

pytestmark = pytest.mark.slow


def some_runs(count, **more):
    return [fake_run(seed=seed, **{"steps": 20, "step_s": 0.03, **more}) for seed in range(count)]


def states(runs, folder):
    return [Status.read(folder / run.id).state for run in runs]


def check_finished_once(runs, folder, restarts=0):
    """
    No iteration is trained twice, but the one between which and its checkpoint a trainer was
    killed. A trainer killed after the last one is started again, to evaluate.
    """
    starts = {run: len(trainers(folder / run.id)) for run in runs}
    assert sum(starts.values()) <= len(runs) + restarts
    for run in runs:
        own = folder / run.id
        assert Status.read(own).state == "done"
        assert 1 <= len(lines_of(own / "finishes")) <= starts[run]
        assert len(lines_of(own / "iterations")) <= run.iterations + starts[run] - 1


def running_trainers(runs, folder):
    return [pid for run in runs for pid in trainers(folder / run.id) if is_alive(pid)]


def exit_code(process):
    process.join(PATIENCE_S)
    return process.exitcode


def test_two_sweeps_on_one_folder_one_of_them_killed_finish_every_run_exactly_once(tmp_path):
    runs = some_runs(7)
    first, second = (in_background(sweep, runs, tmp_path) for _ in range(2))
    wait_until(lambda: states(runs, tmp_path).count("done") >= 2)
    wait_until(lambda: any(owner_of(run, tmp_path) == first.pid for run in runs))
    os.kill(first.pid, signal.SIGKILL)
    assert exit_code(second) == 0
    check_finished_once(runs, tmp_path, restarts=2)  # both runs that it trained
    first.join()


def owner_of(run, folder):
    newest = read_newest(folder / run.id)
    return newest.pid if newest and not newest.released else None


def test_a_second_sweep_waits_for_the_runs_of_the_first(tmp_path):
    runs = some_runs(2, steps=60)
    first = in_background(sweep, runs, tmp_path)
    wait_until(lambda: len(running_trainers(runs, tmp_path)) == 2)
    second = in_background(sweep, runs, tmp_path)
    assert exit_code(second) == 0
    assert states(runs, tmp_path) == ["done", "done"]
    assert exit_code(first) == 0
    check_finished_once(runs, tmp_path)


def test_a_frozen_sweep_is_taken_over_and_does_no_harm_when_it_wakes_up(tmp_path):
    runs = some_runs(1, steps=200)
    frozen = in_background(sweep, runs, tmp_path)
    wait_until(lambda: lines_of(tmp_path / runs[0].id / "iterations"))
    os.kill(frozen.pid, signal.SIGSTOP)
    second = in_background(sweep, runs, tmp_path)
    wait_until(lambda: owner_of(runs[0], tmp_path) == second.pid)
    os.kill(frozen.pid, signal.SIGCONT)
    assert (exit_code(frozen), exit_code(second)) == (0, 0)
    check_finished_once(runs, tmp_path, restarts=1)


def test_an_arm_with_nan_has_failed_with_its_reason_and_the_others_finish(tmp_path):
    runs = [fake_run("NaN", seed=s, behavior="nan") for s in (1, 2)] + some_runs(2)
    statuses = run_all(runs, tmp_path, fake_options())
    assert [status.state for status in statuses] == ["failed", "failed", "done", "done"]
    assert statuses[0].reason == "loss became NaN or infinite at iteration 3: loss_cls nan"
    assert exit_code(in_background(sweep, runs, tmp_path)) == 1


def test_failed_runs_are_retried_only_on_request(tmp_path):
    run = fake_run(behavior="exit")
    for retry_failed, attempts in [(False, 1), (False, 1), (True, 2), (False, 2), (True, 3)]:
        options = fake_options(retry_failed=retry_failed)
        assert run_all([run], tmp_path, options)[0].attempts == attempts


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl_c", "sigterm", "sighup"]
)
def test_a_sweep_resumes_after_a_signal(tmp_path, number):
    runs = some_runs(3, steps=100, step_s=0.02)
    process = in_background(sweep, runs, tmp_path)
    wait_until(lambda: all(lines_of(tmp_path / run.id / "iterations") for run in runs[:2]))
    os.kill(process.pid, number)
    assert exit_code(process) == 128 + number
    assert running_trainers(runs, tmp_path) == []
    assert states(runs, tmp_path) == ["pending"] * 3
    assert trainers(tmp_path / runs[2].id) == []
    assert exit_code(in_background(sweep, runs, tmp_path)) == 0
    check_finished_once(runs, tmp_path, restarts=2)
    assert lines_of(tmp_path / runs[0].id / "iterations") == [str(i) for i in range(100)]


def test_a_second_ctrl_c_kills_trainers_that_do_not_stop(tmp_path):
    runs = some_runs(1, steps=1000, behavior="deaf")
    process = in_background(sweep, runs, tmp_path)
    wait_until(lambda: lines_of(tmp_path / runs[0].id / "iterations"))
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)  # from `timeout`; it does not count as a second one
    time.sleep(1)
    assert len(running_trainers(runs, tmp_path)) == 1
    os.kill(process.pid, signal.SIGINT)
    start = time.monotonic()
    assert exit_code(process) == 130
    assert time.monotonic() - start < 15
    assert running_trainers(runs, tmp_path) == []


def test_an_ignored_signal_stays_ignored(tmp_path):
    """The situation is that of a process under nohup."""

    def ignoring(*arguments):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        sweep(*arguments)

    runs = some_runs(1)
    process = in_background(ignoring, runs, tmp_path)
    wait_until(lambda: lines_of(tmp_path / runs[0].id / "iterations"))
    os.kill(process.pid, signal.SIGHUP)
    assert exit_code(process) == 0


def test_signal_handlers_are_restored(tmp_path):
    before = [signal.getsignal(number) for number in runner.ENDING_SIGNALS]
    run_all(some_runs(1), tmp_path, fake_options())
    assert [signal.getsignal(number) for number in runner.ENDING_SIGNALS] == before


def test_a_full_disk_ends_the_sweep_and_the_runs_resume_later(tmp_path):
    full = fake_run("full", behavior="disk_full", step_s=0.3)
    runs = [full, *some_runs(4, steps=1000)]
    statuses = run_all(runs, tmp_path, fake_options())
    assert [status.state for status in statuses] == ["failed"] + ["pending"] * 4
    assert statuses[0].reason.startswith("disk full: ")
    assert trainers(tmp_path / runs[4].id) == []


def test_lost_tasks_are_resubmitted_a_few_times(tmp_path, monkeypatch, capsys):
    class Broken:
        description = "an engine that loses everything"
        poll_s = 0.0

        def submit(self, tasks):
            sent.extend(tasks)
            return [Lost() for _ in tasks]

        def close(self):
            sent.append("closed")

    class Lost:
        def done(self):
            return True

        def result(self):
            raise RuntimeError("traceback\nthe node died")

    sent = []
    monkeypatch.setattr(runner, "make_engine", lambda *_: Broken())
    statuses = run_all(some_runs(1), tmp_path, fake_options())
    reason = "lost 3 times; RuntimeError: the node died"
    assert statuses == [Status("failed", reason)]
    assert len(sent) == 4
    assert sent[-1] == "closed"
    assert "lost in transit (RuntimeError: the node died)" in capsys.readouterr().err


def test_the_run_of_a_machine_that_died_is_taken_over_after_its_lease(tmp_path):
    run = some_runs(1)[0]
    own = tmp_path / run.id
    own.mkdir()
    (own / "claim.3").write_text(
        '{"host": "h", "machine": "m", "pid": 1, "started": "1", "beat": 9, "released": false}'
    )
    Status("running", attempts=1).write(own)
    start = time.monotonic()
    assert run_all([run], tmp_path, fake_options()) == [Status("done", attempts=2)]
    assert time.monotonic() - start > LEASE.expiry_s


def test_the_files_of_a_run_are_not_read_again_for_every_other_run(tmp_path, monkeypatch):
    """One run finishes at each look, and the others wait."""

    class OneByOne:
        description = "an engine that finishes a run at each poll"
        poll_s = 0.0

        def submit(self, tasks):
            return [Handle(number) for number in range(len(tasks))]

        def close(self):
            pass

    class Handle:
        def __init__(self, polls):
            self.polls = polls

        def done(self):
            self.polls -= 1
            return self.polls < 0

        def result(self):
            return Status("done", attempts=1)

    read, reads = Status.read, []
    monkeypatch.setattr(Status, "read", lambda folder: reads.append(folder) or read(folder))
    monkeypatch.setattr(runner, "make_engine", lambda *_: OneByOne())
    for name in ("POLL_S", "LOOK_S"):
        monkeypatch.setattr(runner, name, 0.0)
    runs = some_runs(40)
    assert {status.state for status in run_all(runs, tmp_path, fake_options())} == {"done"}
    assert len(reads) <= 3 * len(runs)
