"""Atomic writes of files."""

import errno
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from focal_plugin.files import (
    UnfinishedFile,
    end_line,
    remove_unfinished,
    sha256_of,
    sync_folder,
    write_all,
    write_if_other,
    write_json,
    write_text,
)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def fill(folder, *, name="model.pth"):
    """Create the remains of a process that was killed while it wrote ``name``."""
    left = folder / f".{name}.{'0123456789abcdef' * 2}.tmp"
    left.write_bytes(b"half of")
    return left


def test_a_finished_file_replaces_the_old_one(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with UnfinishedFile(file) as new:
        new.write(b"new")
        new.flush()
        assert file.read_text() == "old"
        new.finish()
    assert file.read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_the_digest_is_of_all_that_was_written(tmp_path):
    with UnfinishedFile(tmp_path / "file") as new:
        new.write(b"one ")
        new.write(memoryview(b"two"))
        assert new.sha256 == hashlib.sha256(b"one two").hexdigest()


def test_an_unfinished_file_leaves_the_old_one_and_nothing_else(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with UnfinishedFile(file) as new:
        new.write(b"new")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_failure_to_write_is_an_oserror_that_names_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    file = tmp_path / "file"

    def write():
        with UnfinishedFile(file) as new:
            try:
                new.flush()
            except OSError:
                raise RuntimeError("as a library would") from None

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(file)
    assert names(tmp_path) == []


def test_a_folder_that_is_missing_is_named_by_the_file_in_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_text(tmp_path / "missing" / "file", "text")
    assert caught.value.filename == str(tmp_path / "missing" / "file")


def test_what_a_killed_process_has_left_is_removed(tmp_path):
    left = fill(tmp_path)
    remove_unfinished(tmp_path, "*.pth")
    assert not left.exists()


@pytest.mark.parametrize(
    "name", ["model.pth", ".model.pth.tmp", ".model.pth.swp", ".model.pkl.%s.tmp", "%s.tmp"]
)
def test_files_of_others_are_not_removed(tmp_path, name):
    other = tmp_path / name.replace("%s", "0123456789abcdef" * 2)
    other.write_text("theirs")
    remove_unfinished(tmp_path, "*.pth")
    assert other.exists()


def test_what_another_process_is_writing_is_not_removed(tmp_path):
    left = fill(tmp_path)
    code = (
        "import fcntl, sys\n"
        "stream = open(sys.argv[1], 'r+b')\n"
        "fcntl.lockf(stream, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(left)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as writer:
        assert writer.stdout.readline() == "locked\n"
        remove_unfinished(tmp_path, "*.pth")
        assert left.exists()
        writer.stdin.close()
    remove_unfinished(tmp_path, "*.pth")
    assert not left.exists()


def test_a_file_is_locked_while_it_is_written(tmp_path):
    with UnfinishedFile(tmp_path / "file"):
        [left] = tmp_path.iterdir()
        code = (
            "import fcntl, sys\n"
            "fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        )
        taken = subprocess.run([sys.executable, "-c", code, str(left)], capture_output=True)
    assert b"BlockingIOError" in taken.stderr


def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    left = fill(tmp_path)
    write_text(tmp_path / "file", "text")
    remove_unfinished(tmp_path, "*.pth")
    assert (tmp_path / "file").read_text() == "text"
    assert left.exists()  # its writer may be alive


def test_a_file_removed_before_locking_is_created_again(tmp_path, monkeypatch):
    lock, removed = fcntl.lockf, []

    def remove_the_first(stream, operation):
        if not removed:
            removed.append(Path(stream.name))
            removed[0].unlink()
        return lock(stream, operation)

    monkeypatch.setattr(fcntl, "lockf", remove_the_first)
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
    assert removed


def test_all_files_are_written_before_the_first_is_replaced(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "missing" / "second"
    first.write_text("old")
    with pytest.raises(FileNotFoundError):
        write_all({first: b"new", second: b"new"})
    assert first.read_text() == "old"
    assert names(tmp_path) == ["first"]


def test_json_is_strict(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"loss": float("nan")})
    write_json(tmp_path / "file.json", {"loss": 1.5})
    assert json.loads((tmp_path / "file.json").read_text()) == {"loss": 1.5}
    assert names(tmp_path) == ["file.json"]


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_syncing_an_unsupported_folder_is_no_error(tmp_path, monkeypatch):
    def fail_with(number):
        def fail(_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)

    sync_folder(tmp_path)
    fail_with(errno.EINVAL)
    sync_folder(tmp_path)
    fail_with(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        sync_folder(tmp_path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"{}\n", b"{}\n"),
        (b"{}\n{", b"{}\n{\n"),
        (b"\0", b"\0\n"),
        (b"\n\n", b"\n\n"),
    ],
)
def test_a_line_that_was_cut_off_is_ended_once(tmp_path, before, after):
    file = tmp_path / "lines"
    end_line(file)
    assert not file.exists()
    file.write_bytes(before)
    for _ in range(2):
        end_line(file)
        assert file.read_bytes() == after


def test_a_folder_in_the_way_of_a_file_is_named(tmp_path):
    (tmp_path / "status.json").mkdir()
    with pytest.raises(OSError, match=r"Is a directory: '.*/status\.json'$"):
        write_json(tmp_path / "status.json", {})
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]


def test_a_file_that_has_the_content_is_not_written_again(tmp_path):
    file = tmp_path / "new" / "a"
    write_if_other(file, b"first")
    os.utime(file, (1, 1))
    write_if_other(file, b"first")
    assert file.stat().st_mtime == 1
    write_if_other(file, b"second")
    assert file.read_bytes() == b"second"
