"""Tests of claims: races, dead and frozen owners, wrong clocks."""

import itertools
import json
import multiprocessing
import os
import signal
import socket
import time

import pytest

from focal_plugin.compare.running import claim as claim_module
from focal_plugin.compare.running.claim import HeldError, Lease, Observer, read_newest, take

from .fakes import in_background, is_alive, wait_until

pytestmark = pytest.mark.slow

LEASE = Lease(beat_s=0.05, expiry_s=0.6)
FORK = multiprocessing.get_context("fork")


def race(folders, processes, **options):
    """Return the number of winners per folder if all processes take it at the same time."""
    barrier, wins = FORK.Barrier(processes), FORK.Array("i", len(folders))

    def compete():
        held = []  # keeps the claims while others may still try
        for number, folder in enumerate(folders):
            barrier.wait()
            try:
                held.append(take(folder, lease=LEASE, **options))
            except HeldError:
                continue
            with wins.get_lock():
                wins[number] += 1
        barrier.wait()

    started = [in_background(compete) for _ in range(processes)]
    for process in started:
        process.join()
        assert process.exitcode == 0
    return list(wins)


def write_claim(folder, generation=1, **content):
    fields = {
        "host": socket.gethostname(),
        "machine": "another machine",
        "pid": os.getpid(),
        "started": "1",
        "beat": 3,
        "released": False,
    }
    (folder / f"claim.{generation}").write_text(json.dumps({**fields, **content}))


def hold(folder, ready):
    with take(folder, lease=LEASE):
        ready.set()
        time.sleep(60)


@pytest.fixture
def owner(tmp_path):
    """Start a process that owns ``tmp_path``."""
    ready = FORK.Event()
    process = in_background(hold, tmp_path, ready)
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


def test_of_two_processes_exactly_one_wins_fifty_times(tmp_path):
    folders = [tmp_path / str(number) for number in range(50)]
    for folder in folders:
        folder.mkdir()
    assert race(folders, processes=2) == [1] * 50


def test_of_many_that_take_over_a_stale_claim_exactly_one_wins(tmp_path):
    folders = [tmp_path / str(number) for number in range(20)]
    for folder in folders:
        folder.mkdir()
        write_claim(folder, generation=4)
    assert race(folders, processes=6, stale=4) == [1] * 20
    assert all(read_newest(folder).generation == 5 for folder in folders)


def test_a_released_claim_is_free_at_once_and_nothing_is_deleted(tmp_path):
    for generation in (1, 2, 3):
        with take(tmp_path) as claim:
            assert claim.is_ours()
            assert read_newest(tmp_path).generation == generation
            with pytest.raises(HeldError, match=f"process {os.getpid()} on {socket.gethostname()}"):
                take(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["claim.1", "claim.2", "claim.3"]


def test_a_live_owner_keeps_its_claim(tmp_path, owner):
    observer = Observer(tmp_path, LEASE)
    end = time.monotonic() + 3 * LEASE.expiry_s
    while time.monotonic() < end:
        assert observer.holder().pid == owner.pid
        time.sleep(0.05)


def test_the_claim_of_a_dead_process_of_this_machine_is_free_at_once(tmp_path, owner):
    os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(owner.pid))  # a zombie, because nobody has waited for it
    assert Observer(tmp_path, Lease()).holder() is None
    with take(tmp_path) as claim:
        assert claim.is_ours()


def test_another_process_with_the_same_id_is_not_the_owner(tmp_path):
    with take(tmp_path):
        content = json.loads((tmp_path / "claim.1").read_text())
    write_claim(tmp_path, generation=2, **{**content, "released": False})
    with pytest.raises(HeldError):
        take(tmp_path)
    write_claim(tmp_path, generation=2, **{**content, "released": False, "started": "1"})
    take(tmp_path).release()


def test_the_claim_of_another_machine_is_stale_only_after_its_lease(tmp_path):
    gone = in_background(time.sleep, 0)
    gone.join()
    write_claim(tmp_path, pid=gone.pid)
    observer, start = Observer(tmp_path, LEASE), time.monotonic()
    wait_until(lambda: observer.holder() is None)
    assert time.monotonic() - start >= LEASE.expiry_s
    assert observer.stale_generation() == 1
    with pytest.raises(HeldError):
        take(tmp_path)
    with take(tmp_path, stale=1) as claim:
        assert claim.is_ours()


def test_a_frozen_owner_loses_its_claim(tmp_path):
    observer = Observer(tmp_path, LEASE)

    def own(ready, results):
        with take(tmp_path, lease=LEASE) as claim:
            ready.set()
            results.put(claim.lost.wait(30))
        results.put(claim.is_ours())

    ready, results = FORK.Event(), FORK.Queue()
    frozen = in_background(own, ready, results)
    assert ready.wait(30)
    os.kill(frozen.pid, signal.SIGSTOP)
    wait_until(lambda: observer.holder() is None)
    with take(tmp_path, stale=observer.stale_generation(), lease=LEASE) as claim:
        os.kill(frozen.pid, signal.SIGCONT)
        assert (results.get(timeout=30), results.get(timeout=30)) == (True, False)
        frozen.join()
        assert claim.is_ours()
        assert read_newest(tmp_path).pid == os.getpid()
        assert not json.loads((tmp_path / "claim.1").read_text())["released"]


def test_clocks_and_file_times_do_not_matter(tmp_path, monkeypatch):
    now, jumps = time.time(), itertools.cycle([0, 1e9, -1e9])
    monkeypatch.setattr(time, "time", lambda: now + next(jumps))

    def beat(number):
        write_claim(tmp_path, beat=number)
        moment = time.time()
        os.utime(tmp_path / "claim.1", (moment, moment))

    observer = Observer(tmp_path, LEASE)
    for number in range(4, 11):  # longer than the lease
        beat(number)
        assert observer.holder() is not None
        time.sleep(LEASE.expiry_s / 4)
    end = time.monotonic() + 1.5 * LEASE.expiry_s
    while time.monotonic() < end:
        os.utime(tmp_path / "claim.1", (time.time(), now))  # a new file time is not a heartbeat
        time.sleep(0.05)
    assert observer.holder() is None


def test_a_claim_that_is_half_written_is_held_until_its_lease_is_over(tmp_path):
    (tmp_path / "claim.1").write_text('{"host": "h')
    (tmp_path / ".claim.7.unfinished").write_text("left by a crash, and no claim")
    observer = Observer(tmp_path, LEASE)
    assert observer.holder().generation == 1
    with pytest.raises(HeldError):
        take(tmp_path)
    wait_until(lambda: observer.holder() is None)
    take(tmp_path, stale=1).release()


def test_the_slower_of_two_takers_loses(tmp_path):
    write_claim(tmp_path)
    with take(tmp_path, stale=1, lease=LEASE), pytest.raises(HeldError):
        take(tmp_path, stale=1, lease=LEASE)


def test_an_owner_without_heartbeat_gives_up_its_claim(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the file system is gone")

    start = time.monotonic()
    claim = take(tmp_path, lease=LEASE)
    monkeypatch.setattr(claim_module, "write_json", fail)
    assert claim.lost.wait(30)
    assert time.monotonic() - start >= LEASE.expiry_s
    claim.release()


def test_a_short_failure_of_the_file_system_is_tolerated(tmp_path, monkeypatch):
    write, failures = claim_module.write_json, []

    def fail_three_times(*arguments):
        if len(failures) < 3:
            failures.append(1)
            raise OSError("not now")
        write(*arguments)

    monkeypatch.setattr(claim_module, "write_json", fail_three_times)
    with take(tmp_path, lease=LEASE) as claim:
        wait_until(lambda: read_newest(tmp_path).beat > 2)
        assert claim.is_ours()
