"""Sweeps over folders in which a small file is damaged."""

import io

import pytest

from focal_plugin.compare.running.claim import Lease, Observer, read_newest, take
from focal_plugin.compare.running.runner import run_all
from focal_plugin.compare.runs.status import Status

from .fakes import fake_options, fake_run, wait_until

DAMAGES = {
    "truncated": lambda file: file.write_text('{"state": "fai'),
    "binary": lambda file: file.write_bytes(bytes(range(256))),
    "empty": lambda file: file.write_bytes(b""),
    "list": lambda file: file.write_text("[1]"),
    "text": lambda file: file.write_text('{"attempts": "2", "beat": "x", "seed": []}'),
    "folder": lambda file: file.mkdir(),
}
LEASE = Lease(beat_s=0.05, expiry_s=0.3)


def damaged_runs(folder, name):
    """Return one run for each damage of the file, and one whole run."""
    runs = [fake_run(arm=damage, steps=1, step_s=0) for damage in [*DAMAGES, "whole"]]
    for run in runs[:-1]:
        (folder / run.id).mkdir(parents=True)
        DAMAGES[run.arm](folder / run.id / name)
    return runs


@pytest.mark.parametrize("name", ["status.json", "result.json"])
def test_a_run_with_a_damaged_file_fails_by_its_name_and_the_others_are_trained(tmp_path, name):
    runs = damaged_runs(tmp_path, name)
    progress = io.StringIO()
    *damaged, whole = run_all(runs, tmp_path, fake_options(lease=LEASE), stream=progress)
    assert whole == Status("done", attempts=1)
    for run, status in zip(runs, damaged, strict=False):
        assert status.state == "failed"
        assert status.reason.startswith(f"{tmp_path / run.id / name} is damaged: ")
        assert f"Delete {name}" in status.reason
        assert status.reason in progress.getvalue()


def test_once_the_damaged_file_is_deleted_the_run_goes_on(tmp_path):
    run, *_ = damaged_runs(tmp_path, "result.json")
    options = fake_options(lease=LEASE)
    (failed,) = run_all([run], tmp_path, options, stream=io.StringIO())
    assert failed.state == "failed"
    (tmp_path / run.id / "result.json").unlink()
    assert run_all([run], tmp_path, options, stream=io.StringIO()) == [Status("done", attempts=1)]


def test_a_damaged_claim_is_taken_over_after_its_lease(tmp_path):
    runs = damaged_runs(tmp_path, "claim.3")
    progress = io.StringIO()
    statuses = run_all(runs, tmp_path, fake_options(lease=LEASE), stream=progress)
    assert statuses == [Status("done", attempts=1)] * len(runs)
    assert "claim.3 is damaged or being written" in progress.getvalue()
    assert read_newest(tmp_path / runs[0].id).generation == 4


@pytest.mark.parametrize("damage", ["truncated", "text", "folder"])
def test_a_damaged_claim_is_held_until_its_lease_ends(tmp_path, damage):
    DAMAGES[damage](tmp_path / "claim.1")
    observer = Observer(tmp_path, LEASE)
    assert "claim.1 is damaged" in str(observer.holder())
    wait_until(lambda: observer.holder() is None)
    with take(tmp_path, stale=observer.stale_generation(), lease=LEASE) as claim:
        assert claim.is_ours()


@pytest.mark.parametrize("name", [".lock", ""])
def test_a_name_that_is_taken_by_something_else_costs_only_its_run(tmp_path, name):
    whole, hindered = (fake_run(arm=arm, steps=1, step_s=0) for arm in ("whole", "hindered"))
    place = tmp_path / hindered.id / name
    place.mkdir(parents=True) if name else place.write_text("")
    statuses = run_all([hindered, whole], tmp_path, fake_options(lease=LEASE), stream=io.StringIO())
    assert [status.state for status in statuses] == ["failed", "done"]
    assert str(place) in statuses[0].reason
