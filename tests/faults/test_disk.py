"""A full or read-only disk, and a folder in use."""

import os
import signal
import subprocess

import pytest

from .planted import Hold, hold_at
from .runs import TWO_PROCESSES, checkpoint, differences, not_finite

DISK_MIB = 32
SECOND_SAVE = Hold("focal_plugin.engine.checkpoints.checkpointer:Checkpointer.save", 2)


@pytest.fixture
def disk(tmp_path):
    """Mount a small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def write_for_ever(file):
    with file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 16))


def fill(disk, *, leave_kib=0):
    """Fill the disk with a file, except for a remainder."""
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        write_for_ever(filler)
    os.truncate(filler, filler.stat().st_size - (leave_kib << 10))
    return filler


@pytest.mark.parametrize("leave_kib", [0, 512], ids=["no room", "room for half"])
def test_a_disk_that_is_full_costs_no_older_checkpoint(runs, reference, disk, leave_kib):
    output = disk / "run"
    run = runs.start(output=output, plants=[SECOND_SAVE])
    run.held()
    filler = fill(disk, leave_kib=leave_kib)
    run.go_on()
    assert run.wait() == 1
    assert "No space left on device" in run.last_line
    assert "model_0000005.pth" in run.last_line
    assert sorted(file.name for file in output.glob("*.pth")) == ["model_0000002.pth"]
    assert list(output.glob(".*.tmp")) == []
    assert checkpoint(output / "model_0000002.pth")["iteration"] == 2
    assert not_finite(output) == []
    filler.unlink()
    assert runs.resume(output=output).succeed().started_at(3)
    assert differences(reference(), output) == []


def test_a_disk_that_is_full_ends_two_processes(runs, reference, disk):
    output = disk / "run"
    run = runs.start(*TWO_PROCESSES, output=output, plants=[SECOND_SAVE])
    run.held(0), run.held(1)
    filler = fill(disk)
    run.go_on()
    assert run.wait() == 1
    assert "No space left on device" in run.text
    filler.unlink()
    runs.resume(*TWO_PROCESSES, output=output).succeed()
    assert differences(reference("two processes"), output) == []


def test_a_disk_that_is_full_when_a_run_is_asked_to_end(runs, reference, disk):
    output = disk / "run"
    run = runs.start(output=output, plants=[hold_at(4)])
    run.held()
    filler = fill(disk)
    run.send(signal.SIGTERM).go_on()
    assert run.wait() == 1
    assert "No space left on device" in run.last_line
    filler.unlink()
    runs.resume(output=output).succeed()
    assert differences(reference(), output) == []


def test_a_file_in_the_way_of_the_output_is_one_line(runs, tmp_path):
    (tmp_path / "file").touch()
    run = runs.start(output=tmp_path / "file" / "run")
    assert run.wait() == 2
    assert run.last_line.startswith("OutputFolderError: ")
    assert str(tmp_path / "file" / "run") in run.last_line
    assert "Traceback" not in run.text


def test_a_disk_that_is_read_only_is_one_line(runs, disk):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    run = runs.start(output=disk / "run")
    assert run.wait() == 2
    assert run.last_line.startswith("OutputFolderError: ")
    assert "Read-only file system" in run.last_line
    assert "Traceback" not in run.text


@pytest.mark.parametrize("flags", [(), TWO_PROCESSES, ("--resume",)])
def test_a_second_run_in_the_folder_of_another_is_refused(runs, reference, flags):
    first = runs.start(plants=[hold_at(5)])
    pid = first.held()
    second = runs.start(*flags)
    assert second.wait() == 2
    (message,) = (x for x in second.text.splitlines() if x.startswith("OutputFolderError: "))
    assert f"process {pid} on " in message
    assert "Traceback" not in second.text
    first.go_on().succeed()
    assert differences(reference(), first.output) == []
