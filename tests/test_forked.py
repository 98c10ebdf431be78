"""Work in several processes."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from focal_plugin.forked import in_processes, usable_processes

ORPHANS = """
import os, time
from focal_plugin.forked import in_processes

def work(index):
    os.write(1, b"%d\\n" % os.getpid())  # at once, unlike print with PYTHONUNBUFFERED
    time.sleep(600)

for result in in_processes(work, 2, 2):
    result()
"""


@pytest.mark.parametrize("processes", [1, 3])
def test_results_are_in_order_and_see_the_memory_of_this_process(processes):
    unpicklable = [lambda i=i: 10 * i for i in range(5)]
    results = in_processes(lambda i: (unpicklable[i](), os.getpid()), 5, processes)
    numbers, pids = zip(*(result() for result in results), strict=True)
    assert numbers == (0, 10, 20, 30, 40)
    assert (os.getpid() in pids) == (processes == 1)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_raised_by_the_result_of_its_number_alone(processes):
    def work(index):
        if index == 1:
            raise ValueError("file 1 is broken")
        return index

    first, second, third = in_processes(work, 3, processes)
    assert (first(), third()) == (0, 2)
    with pytest.raises(ValueError, match="file 1 is broken"):
        second()


@pytest.mark.parametrize("processes", [1, 2])
def test_results_may_be_asked_for_after_the_last_one_was_yielded(processes):
    def work(index):
        time.sleep(0.05)
        return index

    assert [result() for result in [*in_processes(work, 9, processes)]] == [*range(9)]


def test_work_is_cancelled_if_no_further_result_is_wanted(tmp_path):
    def work(index):
        (tmp_path / str(index)).touch()
        time.sleep(0.05)

    results = in_processes(work, 100, 2)
    next(results)()
    results.close()
    assert len([*tmp_path.iterdir()]) < 50


def test_one_process_works_only_when_a_result_is_asked_for():
    done = []
    first, second = in_processes(done.append, 2, 1)
    assert done == []
    second()
    assert done == [1]
    first()
    assert done == [1, 0]


def test_there_is_no_fork_beside_a_thread():
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert usable_processes() == 1
    finally:
        end.set()
        thread.join()


def test_processes_end_with_a_parent_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE) as parent:
        try:
            workers = [int(parent.stdout.readline()) for _ in range(2)]
        finally:
            parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_running, workers))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
