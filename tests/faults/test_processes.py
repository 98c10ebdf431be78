"""Several processes train as one job: if one fails, all end, and none is left over."""

import os
import signal
import time
from pathlib import Path

from .planted import Raise, hold_at
from .runs import SOON_S, TWO_PROCESSES, differences, wait_until


def is_alive(pid):
    """Return True if a process is alive; a zombie is not (a container may never reap it)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_two_processes_of_the_script_train_on_the_cpu(runs, reference):
    run = runs.start_script("--num-gpus", 2).succeed()
    assert differences(reference("two processes"), run.output) == []


def test_two_processes_of_torchrun_train_on_the_cpu(runs, reference):
    run = runs.start_torchrun(2).succeed()
    assert "Starting training from iteration 0" in run.text
    assert differences(reference("two processes"), run.output) == []


def test_two_jobs_train_side_by_side(runs, tmp_path):
    first = runs.start("--num-gpus", 2, plants=[hold_at(1)], SOLVER__MAX_ITER=2)
    first.held(0)
    runs.start("--num-gpus", 2, output=tmp_path / "second", SOLVER__MAX_ITER=2).succeed()
    first.go_on().succeed()


def test_a_process_that_raises_ends_the_job_with_its_traceback(runs):
    run = runs.start(*TWO_PROCESSES, plants=[Raise(4, rank=1, text="rank 1 gives up")])
    assert run.wait() == 1
    assert run.text.count("ValueError: rank 1 gives up") == 1
    assert "rank 1 (process" in run.text
    assert "rank 0 (process" not in run.text


def test_a_process_that_is_killed_ends_the_job(runs, reference):
    run = runs.start(*TWO_PROCESSES, plants=[hold_at(5, rank=1)])  # rank 0 waits for it
    pid = run.held(1)
    start = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    assert run.wait() == 128 + signal.SIGKILL
    assert time.monotonic() - start < SOON_S
    assert f"rank 1 (process {pid}) was killed by SIGKILL" in run.text
    runs.resume(*TWO_PROCESSES).succeed()
    assert differences(reference("two processes"), run.output) == []


def test_no_process_outlives_the_one_that_started_it(runs):
    run = runs.start(*TWO_PROCESSES, plants=[hold_at(4)])
    ranks = [run.held(0), run.held(1)]
    run.kill()
    wait_until(lambda: not any(map(is_alive, ranks)), SOON_S)
