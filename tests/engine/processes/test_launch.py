import json
import multiprocessing
import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from focal_plugin.engine.processes import ranks
from focal_plugin.engine.processes.launch import launch
from focal_plugin.engine.processes.process_group import _share_cores
from focal_plugin.engine.processes.stop_requests import SAME_REQUEST_S, StopRequests
from focal_plugin.signals import JOB_SIGNALS

from . import launched

SOON_S = 30
"""Time limit in seconds for operations of at most a second; a hang takes longer."""


@pytest.fixture(autouse=True)
def quick_start(fork_server, monkeypatch):
    """Start processes as fast as possible, because many tests do."""
    monkeypatch.setattr(ranks, "START_METHOD", "forkserver")
    monkeypatch.setattr(ranks, "GRACE_S", 0.5)
    monkeypatch.setattr(ranks, "SETTLE_S", 0.2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def handlers():
    """Install handlers for all signals, so that a signal that `launch` misses ends no test."""
    received = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in JOB_SIGNALS
    }
    yield received
    for number, handler in before.items():
        signal.signal(number, handler)


def exit_code_of(function, *arguments):
    start = time.monotonic()
    with pytest.raises(SystemExit) as end:
        launched.launch_two(function, *arguments)
    assert time.monotonic() - start < SOON_S
    return end.value.code


class Signals(threading.Thread):
    """Thread that sends signals once both ranks are ready, to this process or to the ranks too."""

    def __init__(self, folder, *numbers, pause=0.0, also_ranks=False):
        super().__init__(daemon=True)
        self._folder, self._numbers = folder, numbers
        self._pause, self._also_ranks = pause, also_ranks

    def run(self):
        files = [self._folder / f"ready{rank}" for rank in range(2)]
        wait_until(lambda: all(file.exists() and file.read_text() for file in files))
        ranks = [int(file.read_text()) for file in files] if self._also_ranks else []
        for number in self._numbers:
            for process in [*ranks, os.getpid()]:
                os.kill(process, number)
            time.sleep(self._pause)


def wait_until(condition):
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def places_in(folder):
    return [json.loads(file.read_text()) for file in sorted(folder.glob("rank*"))]


def place(world_size, local_rank, local_size):
    return {
        "world_size": world_size,
        "local_rank": local_rank,
        "local_size": local_size,
        "sum": 3.0,
        "backend": "gloo",
    }


def test_a_single_process_is_the_current_one():
    called = []
    for processes in (0, 1):
        launch(lambda *args: called.append((os.getpid(), args)), processes, args=(1, 2))
    assert called == 2 * [(os.getpid(), (1, 2))]
    assert not torch.distributed.is_initialized()


def test_an_error_of_a_single_process_is_raised():
    with pytest.raises(ValueError, match="no rank likes this"):
        launch(launched.fail_all, 1)


def test_two_processes_without_cuda_form_a_group_on_one_machine(tmp_path):
    launched.launch_two(launched.tell_place, tmp_path)
    assert places_in(tmp_path) == [place(2, 0, 2), place(2, 1, 2)]


def test_data_workers_of_a_rank_start_as_those_of_one_process(tmp_path):
    launched.launch_two(launched.tell_start_method, tmp_path)
    there = [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)]
    assert there == 2 * [multiprocessing.get_start_method()]


def test_two_machines_connect_at_the_given_url(tmp_path, caplog):
    meet = f"file://{tmp_path}/meet"

    def machine(rank):
        launch(launched.tell_place, 1, 2, rank, meet, (tmp_path,), timedelta(seconds=60))

    other = threading.Thread(target=machine, args=(1,))
    other.start()
    machine(0)
    other.join()
    assert places_in(tmp_path) == [place(2, 0, 1), place(2, 0, 1)]
    assert "file:// is not reliable on several machines" in caplog.text


@pytest.mark.parametrize("url", [None, "auto"])
def test_several_machines_without_a_meeting_point_are_refused(url):
    with pytest.raises(ValueError, match=r"2 machines require a meeting point: .* --dist-url"):
        launch(launched.fail_all, 1, 2, dist_url=url)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1, 1, 0), "number of GPUs must be >= 0, got -1"),
        ((1, 0, 0), "number of machines must be >= 1, got 0"),
        ((1, 2, 2), "rank of a machine must be in 0..1, got 2"),
        ((0, 2, 0), "2 machines require 1 or more processes each"),
    ],
)
def test_numbers_of_processes_and_machines_are_checked(numbers, message):
    with pytest.raises(ValueError, match=message):
        launch(launched.fail_all, *numbers, "tcp://127.0.0.1:1")


@pytest.mark.parametrize("processes", [3, 4])
def test_more_processes_than_gpus_are_refused_with_both_numbers(monkeypatch, processes):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=f"{processes} GPUs requested .* which has 2"):
        launch(launched.fail_all, processes)


def test_a_rank_that_waits_longer_than_the_timeout_raises(capfd, tmp_path):
    start = time.monotonic()
    with pytest.raises(SystemExit) as end:
        launch(launched.wait_for_one_another, 2, args=(tmp_path,), timeout=timedelta(seconds=1))
    assert end.value.code == 1
    assert time.monotonic() - start < SOON_S
    assert "distributed.recv(" in capfd.readouterr().err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_raises_ends_the_others_and_its_traceback_is_the_one_shown(capfd, rank):
    assert exit_code_of(launched.fail, rank, "raise", "cannot continue") == 1
    shown = capfd.readouterr().err
    assert shown.count("Traceback (most recent call last)") == 1
    assert shown.count("ValueError: cannot continue") == 1
    assert f"rank {rank} (process " in shown


def test_an_error_of_all_ranks_is_shown_once(capfd):
    assert exit_code_of(launched.fail_all) == 1
    assert capfd.readouterr().err.count("ValueError: no rank likes this") == 1


@pytest.mark.parametrize(
    ("how", "value", "exit_code", "sentence"),
    [
        ("exit", 3, 3, "ended with exit code 3"),
        ("exit", "the lock is gone", 1, "failed:\nthe lock is gone"),
        ("_exit", 7, 7, "ended with exit code 7"),
        ("signal", signal.SIGKILL, 137, "was killed by SIGKILL, possibly because memory ran out"),
        ("signal", signal.SIGSEGV, 139, "was killed by SIGSEGV"),
        ("signal", signal.SIGTERM, 143, "was killed by SIGTERM"),
    ],
)
def test_a_rank_that_dies_ends_the_others_and_this_process(capfd, how, value, exit_code, sentence):
    assert exit_code_of(launched.fail, 1, how, value) == exit_code
    shown = capfd.readouterr().err
    assert "rank 1 (process " in shown
    assert sentence in shown
    assert "Traceback" not in shown


def test_a_killed_rank_is_the_cause_even_if_another_raised_first(capfd, monkeypatch):
    monkeypatch.setattr(ranks, "SETTLE_S", 2.0)
    assert exit_code_of(launched.vanish_slowly) == 137
    assert "rank 1 (process " in capfd.readouterr().err.splitlines()[1]


def test_after_a_failure_a_rank_that_does_not_end_is_killed(tmp_path, capfd):
    assert exit_code_of(launched.fail_beside_a_deaf_one, tmp_path) == 1
    assert (tmp_path / "asked").exists()
    shown = capfd.readouterr().err
    assert "ValueError: rank 1 gives up" in shown
    assert "rank 0" not in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_request_is_forwarded_to_ranks_without_a_time_limit(
    tmp_path, capfd, handlers, number
):
    Signals(tmp_path, number).start()
    assert exit_code_of(launched.end_slowly, tmp_path, 3 * ranks.GRACE_S) == 143
    assert (tmp_path / "saved").read_text() == str(int(number))
    assert capfd.readouterr().err == ""
    assert not handlers


def test_a_signal_that_this_process_ignores_is_not_passed_on(tmp_path, handlers):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    Signals(tmp_path, signal.SIGUSR1, signal.SIGTERM).start()
    assert exit_code_of(launched.end_slowly, tmp_path, 0.1) == 143
    assert (tmp_path / "saved").read_text() == str(int(signal.SIGTERM))


def test_a_rank_stopped_by_a_scheduler_is_not_a_failure(tmp_path, handlers):
    """A scheduler signals the ranks, but not this process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Signals(tmp_path, signal.SIGTERM, also_ranks=True).start()
    assert exit_code_of(launched.end_slowly, tmp_path, 3 * ranks.GRACE_S) == 143
    assert (tmp_path / "saved").exists()


def test_the_ranks_have_the_grace_only_after_a_second_request(tmp_path, handlers):
    pause = SAME_REQUEST_S + 0.1
    Signals(tmp_path, signal.SIGUSR1, signal.SIGTERM, pause=pause).start()
    start = time.monotonic()
    assert exit_code_of(launched.be_deaf, tmp_path) == 128 + signal.SIGUSR1
    assert time.monotonic() - start > pause + ranks.GRACE_S
    assert not handlers


def test_handlers_are_restored_at_the_end(tmp_path, handlers):
    launched.launch_two(launched.tell_place, tmp_path)
    for number in JOB_SIGNALS:
        os.kill(os.getpid(), number)
    assert sorted(handlers) == sorted(JOB_SIGNALS)


def test_ctrl_c_of_a_terminal_interrupts_every_rank_once(tmp_path, capfd, handlers):
    """A terminal signals the ranks and this process, which forwards the signal."""
    Signals(tmp_path, signal.SIGINT, also_ranks=True).start()
    assert exit_code_of(launched.clean_up_when_interrupted, tmp_path) == 130
    assert (tmp_path / "clean0").exists()
    assert (tmp_path / "clean1").exists()
    assert capfd.readouterr().err == ""


def test_signals_that_arrive_together_are_one_request(monkeypatch):
    requests = StopRequests()
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert [requests.is_new(), requests.is_new()] == [True, False]
    now += 0.9 * SAME_REQUEST_S
    assert not requests.is_new()
    now += 0.2 * SAME_REQUEST_S
    assert requests.is_new()
    assert requests.count == 2


@pytest.mark.parametrize(("cores", "processes", "threads"), [(8, 2, 4), (2, 4, 1), (3, 2, 1)])
def test_the_ranks_share_the_cores(monkeypatch, cores, processes, threads):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    _share_cores(processes)
    assert chosen == [threads]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    _share_cores(processes)
    assert chosen == [threads]


def is_running(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # a container may have no process that reaps it


def test_no_rank_outlives_the_process_that_started_it(tmp_path):
    context = multiprocessing.get_context("forkserver")
    arguments = (launched.wait_for_one_another, tmp_path)
    parent = context.Process(target=launched.launch_two_forked, args=arguments)
    parent.start()
    files = [tmp_path / f"ready{rank}" for rank in range(2)]
    try:
        wait_until(lambda: all(file.exists() and file.read_text() for file in files))
        time.sleep(0.2)  # until the ranks wait for each other
    finally:
        parent.kill()
        parent.join()
    processes = [int(file.read_text()) for file in files]
    wait_until(lambda: not any(map(is_running, processes)))


def test_a_number_other_than_torchruns_is_refused(monkeypatch):
    values = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ValueError, match=r"4 processes per machine .* torchrun started 2"):
        launch(launched.fail_all, 4)
