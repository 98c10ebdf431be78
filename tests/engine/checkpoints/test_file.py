"""Checkpoint files: atomic, verified, and without code."""

import errno
import fractions
import logging
import os
import resource
import signal
import subprocess

import numpy as np
import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

from focal_plugin.engine.checkpoints import file as checkpoint_file
from focal_plugin.engine.checkpoints.file import (
    CheckpointError,
    manifest_of,
    read_checkpoint,
    remove_unfinished_checkpoints,
    write_checkpoint,
)

from .dying import die_after

CONTENT = {
    "model": nn.BatchNorm2d(3).state_dict(),
    "trainer": {"lr": [0.1, 2], "name": "SGD", "none": None, "pair": (1, True), 7: torch.ones(2)},
}
MIB = 1 << 20


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "model_0000009.pth"
    write_checkpoint(file, CONTENT)
    return file


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def message_of(file):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_is_read_as_it_was_written(file):
    read = read_checkpoint(file)
    assert read["trainer"].pop(7).tolist() == [1, 1]
    assert read["trainer"] == {k: v for k, v in CONTENT["trainer"].items() if k != 7}
    assert list(read["model"]) == list(CONTENT["model"])
    assert read["model"]._metadata == CONTENT["model"]._metadata


def test_the_manifest_is_one_that_sha256sum_can_check(file):
    command = ["sha256sum", "--check", "--strict", manifest_of(file).name]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "model_0000009.pth: OK\n")


def test_only_the_checkpoint_and_its_manifest_are_left(file):
    assert names(file.parent) == [file.name, f"{file.name}.sha256"]


def test_a_missing_file_is_reported(tmp_path):
    assert "file not found" in message_of(tmp_path / "model.pth")


def test_a_folder_is_not_a_checkpoint(tmp_path):
    assert "cannot be opened" in message_of(tmp_path)


def test_an_empty_file_is_reported(file):
    file.write_bytes(b"")
    assert "is empty" in message_of(file)


@pytest.mark.parametrize("verified", [True, False])
def test_a_truncated_file_is_reported(file, verified):
    if not verified:
        manifest_of(file).unlink()
    content = file.read_bytes()
    for size in (5, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        assert f"is truncated: its end is missing after {size} bytes" in message_of(file)


def test_a_flipped_bit_anywhere_is_damage(file):
    for position in range(0, file.stat().st_size - 100, 97):
        flip(file, position)
        message_of(file)
        flip(file, position)
    read_checkpoint(file)


def test_a_flipped_byte_of_a_tensor_is_named_with_both_digests(file):
    written = manifest_of(file).read_text().split()[0]
    flip(file, file.read_bytes().index(torch.ones(3).numpy().tobytes()))
    message = message_of(file)
    assert "is damaged: its SHA-256 is " in message
    assert f"{file.name}.sha256 says {written}" in message


@pytest.mark.parametrize("content", [b"", b"\xff\0", b"3b0c44", b"[1]", b"g" * 64])
def test_a_damaged_manifest_is_named_itself_and_not_the_checkpoint(file, content):
    manifest_of(file).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(file)
    assert str(caught.value).startswith(f"{manifest_of(file)} is damaged: it holds no SHA-256")
    assert "Delete it" in str(caught.value)


def test_a_folder_in_place_of_the_manifest_is_named(file):
    manifest_of(file).unlink()
    manifest_of(file).mkdir()
    with pytest.raises(CheckpointError, match=r"sha256 cannot be read: Is a directory\. Delete it"):
        read_checkpoint(file)


def test_a_file_without_manifest_is_read_and_logged_as_unverified(file, caplog):
    manifest_of(file).unlink()
    with caplog.at_level(logging.INFO, "focal_plugin"):
        read_checkpoint(file)
    assert f"{file} could not be verified" in caplog.text


def test_a_verified_file_is_not_logged_as_unverified(file, caplog):
    with caplog.at_level(logging.INFO, "focal_plugin"):
        read_checkpoint(file)
    assert "verified" not in caplog.text


@pytest.mark.parametrize("content", [b"no checkpoint", b"\x80\x04.", b"\0" * 100])
def test_a_foreign_file_is_not_a_checkpoint(tmp_path, content):
    file = tmp_path / "notes.pth"
    file.write_bytes(content)
    assert "is not a PyTorch checkpoint" in message_of(file)


def test_a_tensor_alone_is_not_a_checkpoint(tmp_path):
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    assert "it contains a Tensor, not a dictionary" in message_of(tmp_path / "tensor.pth")


class Payload:
    """Object that creates a file when it is unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("zip_format", [True, False])
def test_code_in_a_file_is_named_and_not_run(tmp_path, zip_format):
    file, proof = tmp_path / "model.pth", tmp_path / "proof"
    content = {"model": Payload(proof)}
    torch.save(content, file, _use_new_zipfile_serialization=zip_format)
    assert "mkdir" in message_of(file)
    assert not proof.exists()


def test_an_object_other_than_a_tensor_is_named(tmp_path):
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "model.pth")
    assert "torch.nn.modules.linear.Linear" in message_of(tmp_path / "model.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_a_tensor_that_is_not_finite_is_never_written(tmp_path, value, dtype):
    tensor = torch.zeros(4, dtype=dtype)
    tensor[2] = value
    content = {"trainer": {"optimizer": {"state": [{"momentum_buffer": tensor}]}}}
    with pytest.raises(CheckpointError) as caught:
        write_checkpoint(tmp_path / "model.pth", content)
    text = str(caught.value)
    assert f"{tmp_path / 'model.pth'} was not saved: 1 of the 4 numbers" in text
    assert "trainer.optimizer.state[0].momentum_buffer" in text
    assert names(tmp_path) == []


def test_integers_and_empty_tensors_are_finite(tmp_path):
    content = {"a": torch.ones(2, dtype=torch.int64), "b": torch.ones(0), "c": float("inf")}
    write_checkpoint(tmp_path / "model.pth", content)
    assert read_checkpoint(tmp_path / "model.pth")["c"] == float("inf")


@pytest.mark.parametrize("value", [np.float64(1), np.ones(2), fractions.Fraction(1, 2), range(2)])
def test_an_object_that_could_not_be_loaded_is_never_written(tmp_path, value):
    with pytest.raises(CheckpointError, match=r"hooks\.best is a .*could not be loaded again"):
        write_checkpoint(tmp_path / "model.pth", {"hooks": {"best": value}})
    assert names(tmp_path) == []


def test_an_interrupted_overwrite_leaves_the_old_checkpoint(file, monkeypatch):
    old = file.read_bytes()

    def interrupted(content, stream):
        stream.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(file, CONTENT)
    assert file.read_bytes() == old
    assert names(file.parent) == [file.name, f"{file.name}.sha256"]
    read_checkpoint(file)


def test_a_process_killed_between_any_two_operations_leaves_a_readable_checkpoint(file):
    other = {"model": {"weight": torch.full((3,), 5.0)}}
    for operations in range(1, 20):
        child = os.fork()
        if child == 0:
            die_after(operations)
            write_checkpoint(file, other)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert read_checkpoint(file)["model"].keys() in ({"weight"}, CONTENT["model"].keys())
        if os.waitstatus_to_exitcode(status) == 0:
            break
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert operations > 5
    remove_unfinished_checkpoints(file.parent)
    assert names(file.parent) == [file.name, f"{file.name}.sha256"]


def test_a_file_too_large_for_the_limit_is_an_error_that_keeps_the_reason(file):
    old = file.read_bytes()
    big = {"model": {"weight": torch.zeros(MIB)}}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_checkpoint(file, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(file)
    assert file.read_bytes() == old
    assert names(file.parent) == [file.name, f"{file.name}.sha256"]


@pytest.fixture
def small_disk(tmp_path):
    """Create a folder on a disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user cannot mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_old_checkpoint_and_no_partial_file(small_disk):
    file = small_disk / "model.pth"
    write_checkpoint(file, CONTENT)
    for path in (file, small_disk / "model_0000019.pth"):
        with pytest.raises(OSError, match="No space left") as caught:
            write_checkpoint(path, {"model": {"weight": torch.zeros(MIB)}})
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(path)
    assert names(small_disk) == ["model.pth", "model.pth.sha256"]
    read_checkpoint(file)


def test_old_pytorch_causes_one_warning(file, caplog, monkeypatch):
    warn = checkpoint_file._warn_of_old_torch
    for version, warnings in ((torch.__version__, 0), (TorchVersion("2.9.1"), 1)):
        monkeypatch.setattr(torch, "__version__", version)
        warn.cache_clear()
        caplog.clear()
        read_checkpoint(file)
        read_checkpoint(file)
        assert caplog.text.count("CVE-2025-32434") == warnings
    warn.cache_clear()
