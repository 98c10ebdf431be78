import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from focal_plugin.engine.lock import LOCK_NAME, OutputFolderError, hold_output_folder

from ..conftest import ROOT

LOCK_FILE = ROOT / "focal_plugin/engine/lock.py"
OTHER = f"""
import importlib.util, os, pathlib, sys, time
spec = importlib.util.spec_from_file_location("lock", {str(LOCK_FILE)!r})
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
try:
    lock.hold_output_folder(pathlib.Path(sys.argv[1]))
except lock.OutputFolderError as error:
    sys.exit(str(error))
print("held", flush=True)
sys.stdin.read()
"""
"""Script of another process without the slow package import; it ends when its input closes."""


def other_process(folder):
    return subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer_of(process):
    """Return the output and the error of a process after asking it to end."""
    out, error = process.communicate()
    return out.strip(), error.strip(), process.returncode


def test_the_folder_is_created_with_the_name_of_its_owner(tmp_path):
    folder = tmp_path / "runs" / "a"
    hold_output_folder(folder)
    assert (folder / LOCK_NAME).read_text() == f"{socket.gethostname()} {os.getpid()}\n"


def test_the_same_process_may_lock_again(tmp_path):
    hold_output_folder(tmp_path / "x")
    open_files = os.listdir("/proc/self/fd")
    for folder in (tmp_path, tmp_path / "x" / ".."):
        hold_output_folder(folder / "x")
    assert os.listdir("/proc/self/fd") == open_files
    assert "in use" in answer_of(other_process(tmp_path / "x"))[1]


def test_another_process_is_told_the_folder_and_its_owner(tmp_path):
    hold_output_folder(tmp_path)
    said, error, code = answer_of(other_process(tmp_path))
    assert (said, code) == ("", 1)
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    assert f"{tmp_path} is in use by {owner}" in error
    assert "OUTPUT_DIR" in error


def test_two_folders_can_be_locked_at_once(tmp_path):
    hold_output_folder(tmp_path / "a")
    assert answer_of(other_process(tmp_path / "b")) == ("held", "", 0)


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_the_folder_is_free_after_any_end_of_its_owner(tmp_path, end):
    with other_process(tmp_path) as owner:
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(OutputFolderError, match=f"in use by process {owner.pid} on"):
            hold_output_folder(tmp_path)
        getattr(owner, end)()
    hold_output_folder(tmp_path)
    assert (tmp_path / LOCK_NAME).read_text().split()[1] == str(os.getpid())


def test_a_refused_process_does_not_change_the_owners_name(tmp_path):
    hold_output_folder(tmp_path)
    answer_of(other_process(tmp_path))
    assert (tmp_path / LOCK_NAME).read_text().split()[1] == str(os.getpid())


def test_a_data_worker_that_outlives_the_training_does_not_hold_the_folder(tmp_path):
    """A forked process has its parent's open files."""
    fork = "if os.fork() == 0: print(os.getpid(), flush=True); time.sleep(60)"
    source = OTHER.replace("sys.stdin.read()", f"{fork}\nsys.stdin.read()")
    owner = subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout.readline() == b"held\n"
    worker = int(owner.stdout.readline())
    try:
        owner.kill()
        owner.wait()
        hold_output_folder(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)
        owner.stdin.close()
        owner.stdout.close()


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputFolderError, match=re.escape(str(folder))) as error:
            hold_output_folder(folder)
        assert re.search("File exists|Not a directory", str(error.value))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without rights")
@pytest.mark.parametrize("below", ["", "new/folder"])
def test_a_folder_without_rights_is_named_with_the_reason(below):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "mine")
        folder.mkdir()
        Path(name).chmod(0o755)
        folder.chmod(0o555)
        os.seteuid(65534)  # user "nobody"
        try:
            with pytest.raises(OutputFolderError, match="Permission denied") as error:
                hold_output_folder(folder / below)
        finally:
            os.seteuid(0)
        assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EROFS, "Read-only file system"), (errno.ENOSPC, "No space left on device")],
)
def test_a_folder_that_cannot_be_written_is_named_with_the_reason(
    tmp_path, monkeypatch, number, reason
):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fails)
    with pytest.raises(OutputFolderError, match=reason) as error:
        hold_output_folder(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def fails(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", fails)
    hold_output_folder(tmp_path)
    assert f"{tmp_path / LOCK_NAME} cannot be locked (No locks available)" in caplog.text


def test_the_lock_is_not_written_through_a_link(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("do not touch")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_NAME).symlink_to(precious)
    with pytest.raises(OutputFolderError, match="symbolic link"):
        hold_output_folder(tmp_path / "run")
    assert precious.read_text() == "do not touch"
