"""Selection of the last checkpoint of a folder, and of a replacement."""

import logging

import pytest
import torch

from focal_plugin.engine.checkpoints.file import CheckpointError, read_checkpoint, write_checkpoint
from focal_plugin.engine.checkpoints.last import (
    LAST_CHECKPOINT,
    iteration_of,
    last_file,
    newest_whole,
    set_last_file,
)


def save(folder, name, iteration):
    file = folder / name
    write_checkpoint(file, {"model": {"w": torch.ones(1)}, "iteration": iteration})
    return file


def damage(file):
    file.write_bytes(file.read_bytes()[:-1])
    return file


def refusal(folder, record):
    (folder / LAST_CHECKPOINT).write_text(record)
    with pytest.raises(CheckpointError) as caught:
        last_file(folder)
    assert str(folder / LAST_CHECKPOINT) in str(caught.value)
    return str(caught.value)


def test_the_last_file_is_the_one_that_was_set(tmp_path):
    file = save(tmp_path, "model_0000009.pth", 9)
    set_last_file(tmp_path, file.name)
    assert last_file(tmp_path) == file
    assert (tmp_path / LAST_CHECKPOINT).read_bytes() == b"model_0000009.pth"  # Detectron2's format


def test_a_line_break_at_the_end_of_the_record_is_ignored(tmp_path):
    file = save(tmp_path, "model_0000009.pth", 9)
    (tmp_path / LAST_CHECKPOINT).write_text("model_0000009.pth\n")
    assert last_file(tmp_path) == file


@pytest.mark.parametrize("record", ["", " \n"])
def test_an_empty_record_is_reported(tmp_path, record):
    assert "is empty" in refusal(tmp_path, record)


def test_a_record_of_a_missing_file_names_it(tmp_path):
    assert "names model_0000009.pth, which does not exist" in refusal(tmp_path, "model_0000009.pth")


@pytest.mark.parametrize("name", ["\0\1", "x" * 5000, "a.pth\nb.pth"])
def test_a_record_of_a_name_that_no_file_has_is_one_short_line(tmp_path, name):
    message = refusal(tmp_path, name)
    assert "which does not exist in that folder" in message
    assert message.isprintable()
    assert len(message) < len(str(tmp_path)) + 200


@pytest.mark.parametrize("name", ["../other/model.pth", "/etc/model.pth", "a/b.pth", "..", "a\\b"])
def test_a_record_of_a_file_outside_the_folder_is_refused(tmp_path, name):
    folder = tmp_path / "run"
    (tmp_path / "other").mkdir()
    folder.mkdir()
    save(tmp_path / "other", "model.pth", 9)
    assert "not a path" in refusal(folder, name)


def test_a_record_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / LAST_CHECKPOINT).mkdir()
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        last_file(tmp_path)


def test_the_newest_by_iteration_that_is_whole_comes_next(tmp_path, caplog):
    for number in (9, 19, 29):
        save(tmp_path, f"model_{number:07d}.pth", number)
    last = damage(tmp_path / "model_0000029.pth")
    second = damage(tmp_path / "model_0000019.pth")
    with caplog.at_level(logging.WARNING):
        file, content = newest_whole(tmp_path, last, read_checkpoint)
    assert (file.name, content["iteration"]) == ("model_0000009.pth", 9)
    assert str(second) in caplog.text


def test_names_without_a_number_are_ranked_by_what_they_say(tmp_path):
    save(tmp_path, "model_0000009.pth", 9)
    best = save(tmp_path, "model_best.pth", 14)
    last = damage(save(tmp_path, "model_final.pth", 19))
    assert newest_whole(tmp_path, last, read_checkpoint)[0] == best


def test_a_checkpoint_later_than_the_damaged_one_is_not_taken(tmp_path):
    older = save(tmp_path, "model_0000009.pth", 9)
    last = damage(save(tmp_path, "model_0000019.pth", 19))
    save(tmp_path, "model_0000029.pth", 29)
    save(tmp_path, "model_final.pth", 39)
    assert newest_whole(tmp_path, last, read_checkpoint)[0] == older


def test_older_files_are_not_read_once_one_is_whole(tmp_path):
    files = [save(tmp_path, f"model_{number:07d}.pth", number) for number in (9, 19, 29)]
    read = []
    newest_whole(tmp_path, None, lambda file: read.append(file) or read_checkpoint(file))
    assert read == [files[2]]


def test_without_an_intact_checkpoint_fallback_fails(tmp_path):
    last = damage(save(tmp_path, "model_0000009.pth", 9))
    torch.save({"model": {}}, tmp_path / "model_weights.pth")
    with pytest.raises(CheckpointError, match=r"contains no older checkpoint to resume from"):
        newest_whole(tmp_path, last, read_checkpoint)


@pytest.mark.parametrize(
    "content", [{}, {"iteration": "9"}, {"iteration": -1}, {"iteration": True}]
)
def test_a_checkpoint_without_an_iteration_is_refused(tmp_path, content):
    with pytest.raises(CheckpointError, match="does not state its iteration"):
        iteration_of(tmp_path / "model.pth", content)
