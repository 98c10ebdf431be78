"""Saving, loading and resuming of checkpoints."""

import copy
import errno
import logging
import os
import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from focal_plugin.engine.checkpoints import checkpointer as checkpoint_module
from focal_plugin.engine.checkpoints import file as checkpoint_file
from focal_plugin.engine.checkpoints.checkpointer import Checkpointer, CheckpointError
from focal_plugin.modeling.normalizer import EMANormalizer

from ...modeling.two_processes import in_two_processes
from .checkpoint_process import (
    buffers_that_are_alike,
    first_cannot_save,
    make,
    own_buffers,
    resume,
)
from .dying import die_after

IDENTITY = {
    "SEED": 1,
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": 2.0,
    "DATASETS.TRAIN[mine].json_sha256": "abc",
}


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def trained(folder, *, steps=1, **options):
    """Train a model for some steps; return it with its optimizer and checkpointer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = {"identity": IDENTITY, **options}
    checkpointer = Checkpointer(model, str(folder), optimizer=optimizer, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer, checkpointer


def saved(folder, *numbers, **options):
    """Save a checkpoint after each of these iterations; return the model of the last one."""
    for number in numbers or (9,):
        model, optimizer, checkpointer = trained(folder, steps=number, **options)
        checkpointer.save(f"model_{number:07d}", iteration=number)
    return model, optimizer


def resumed_from(folder, **options):
    model, optimizer, checkpointer = trained(folder, steps=0, **options)
    extra = checkpointer.resume_or_load("", resume=True)
    return model, optimizer, extra


def refusal(folder, **options):
    """Return the error message of a refused checkpoint; nothing may be loaded."""
    model, optimizer, checkpointer = trained(folder, steps=0, **options)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError) as caught:
        checkpointer.resume_or_load("", resume=True)
    assert_same(model.state_dict(), before)
    assert not optimizer.state
    return str(caught.value)


def assert_same(first, second):
    assert list(first) == list(second)
    for name in first:
        assert torch.equal(first[name], second[name]), name


def edit(file, change):
    """Change the content of a checkpoint, and write the matching manifest."""
    content = torch.load(file, weights_only=True)
    change(content)
    checkpoint_file.write_checkpoint(file, content)


# Saving and resuming


def test_a_resumed_run_has_weights_buffers_and_optimizer_bit_for_bit(tmp_path):
    model, optimizer = saved(tmp_path)
    resumed, other_optimizer, extra = resumed_from(tmp_path)
    assert_same(resumed.state_dict(), model.state_dict())
    for ours, theirs in zip(optimizer.state.values(), other_optimizer.state.values(), strict=True):
        assert torch.equal(ours["momentum_buffer"], theirs["momentum_buffer"])
    assert extra == {"iteration": 9}


def test_a_checkpoint_knows_the_classes_and_an_old_one_without_them_resumes(tmp_path):
    saved(tmp_path, class_names=["dog", "cat"])
    *_, checkpointer = trained(tmp_path, steps=0, class_names=["other"])
    checkpointer.resume_or_load("", resume=True)
    assert checkpointer.loaded_class_names == ("dog", "cat")
    assert checkpointer.class_names == ("other",)  # of the run, which the next checkpoint stores
    edit(tmp_path / "model_0000009.pth", lambda content: content["focal_plugin"].pop("class_names"))
    checkpointer.resume_or_load("", resume=True)
    assert checkpointer.loaded_class_names == ()


def test_a_checkpoint_is_three_files_and_the_record_names_it(tmp_path):
    saved(tmp_path)
    assert names(tmp_path) == ["last_checkpoint", "model_0000009.pth", "model_0000009.pth.sha256"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"


def test_checkpoints_are_compatible_with_detectron2(tmp_path):
    model, _ = saved(tmp_path)
    other = trained(tmp_path, steps=0)[0]
    DetectionCheckpointer(other).load(str(tmp_path / "model_0000009.pth"))
    assert_same(other.state_dict(), model.state_dict())
    stock = DetectionCheckpointer(model, str(tmp_path))
    stock.save("stock")
    third, _, checkpointer = trained(tmp_path / "new", steps=0)
    checkpointer.resume_or_load(str(tmp_path / "stock.pth"), resume=False)
    assert_same(third.state_dict(), model.state_dict())


def test_without_a_folder_nothing_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, _, checkpointer = trained("")
    checkpointer.save("model")
    assert names(tmp_path) == []
    assert not checkpointer.has_checkpoint()
    assert checkpointer.resume_or_load("", resume=True) == {}


@pytest.mark.parametrize("name", ["../model", "a/b"])
def test_a_name_that_is_a_path_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="plain file name"):
        trained(tmp_path)[2].save(name)
    assert names(tmp_path) == []


def test_loading_nothing_starts_from_scratch(tmp_path):
    assert trained(tmp_path)[2].load("") == {}


def test_the_resumed_file_and_the_restored_parts_are_logged(tmp_path, caplog):
    saved(tmp_path)
    with caplog.at_level(logging.INFO):
        resumed_from(tmp_path)
    text = (
        f"{tmp_path / 'model_0000009.pth'}, saved after iteration 9; restored: weights, optimizer"
    )
    assert text in caplog.text


def test_the_checkpoint_of_a_ddp_model_fits_the_model(tmp_path):
    model, _ = saved(tmp_path)
    wrapped = nn.DataParallel(trained(tmp_path, steps=0)[0])
    Checkpointer(wrapped, str(tmp_path)).resume_or_load("", resume=True)
    assert_same(wrapped.module.state_dict(), model.state_dict())


def test_a_state_that_is_not_finite_is_not_saved_and_the_last_checkpoint_stays(tmp_path):
    saved(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    model, optimizer, checkpointer = trained(tmp_path)
    for tensor, name in (
        (model[0].weight.data, "model.0.weight"),
        (model[1].running_var, "model.1.running_var"),
        (optimizer.state[model[0].bias]["momentum_buffer"], "optimizer.state.1.momentum_buffer"),
    ):
        kept = tensor.clone()
        tensor[0] = float("nan")
        with pytest.raises(CheckpointError, match=name):
            checkpointer.save("model_0000019", iteration=19)
        tensor.copy_(kept)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_buffer_that_is_not_in_the_state_is_not_saved_where_it_is_not_finite(tmp_path):
    model, checkpointer = make(tmp_path)
    model.mean.fill_(float("inf"))
    with pytest.raises(CheckpointError, match=r"buffers\[0\]\.mean"):
        checkpointer.save("model_0000009", iteration=9)


def test_a_failed_write_leaves_the_last_checkpoint_and_keeps_the_reason(tmp_path, monkeypatch):
    model, _ = saved(tmp_path)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    _, _, checkpointer = trained(tmp_path)
    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            checkpointer.save("model_0000019", iteration=19)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "model_0000019.pth")
    assert names(tmp_path) == ["last_checkpoint", "model_0000009.pth", "model_0000009.pth.sha256"]
    assert_same(resumed_from(tmp_path)[0].state_dict(), model.state_dict())


def test_a_process_killed_anywhere_in_a_save_leaves_one_to_resume_from(tmp_path):
    first, _ = saved(tmp_path)
    second, _, checkpointer = trained(tmp_path, steps=19)
    operations, ended = 0, False
    while not ended:
        operations += 1
        child = os.fork()
        if child == 0:
            die_after(operations)
            checkpointer.save("model_0000019", iteration=19)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        model, _, extra = resumed_from(tmp_path)
        assert_same(model.state_dict(), (first if extra["iteration"] == 9 else second).state_dict())
        assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
        if not ended:
            checkpointer.tag_last_checkpoint("model_0000009.pth")
    assert operations > 8
    assert extra["iteration"] == 19


def test_the_record_is_replaced_and_never_overwritten(tmp_path):
    saved(tmp_path)
    os.link(tmp_path / "last_checkpoint", tmp_path / "the same file")
    trained(tmp_path)[2].save("model_0000019", iteration=19)
    assert (tmp_path / "the same file").read_text() == "model_0000009.pth"
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000019.pth"


def test_what_a_killed_process_left_is_removed_by_the_next_save_and_the_next_start(tmp_path):
    saved(tmp_path)
    _, _, checkpointer = trained(tmp_path)
    for act in (
        lambda: checkpointer.save("model_0000019", iteration=19),
        lambda: checkpointer.resume_or_load("", resume=True),
        lambda: checkpointer.resume_or_load("", resume=False),
    ):
        theirs = [".model_0000019.pth.tmp", "model.tmp", f".other.{'a1' * 16}.tmp"]
        ours = [
            f".{name}.{'a1' * 16}.tmp"
            for name in ("model_0000019.pth", "model_0000019.pth.sha256", "last_checkpoint")
        ]
        for name in theirs + ours:
            (tmp_path / name).write_text("half")
        act()
        assert set(theirs) <= set(names(tmp_path))
        assert not set(ours) & set(names(tmp_path))


# Damage


def test_a_damaged_checkpoint_is_refused_and_the_flag_named(tmp_path):
    saved(tmp_path, 9, 19)
    file = tmp_path / "model_0000019.pth"
    for content in (b"", file.read_bytes()[:-7], file.read_bytes()[:300] + b"?" * 5000):
        file.write_bytes(content)
        message = refusal(tmp_path)
        assert str(file) in message
        assert "--resume-fallback" in message


def test_with_fall_back_the_next_older_one_is_resumed_from_and_both_are_named(tmp_path, caplog):
    model, _ = saved(tmp_path, 9)
    saved(tmp_path, 19)
    file = tmp_path / "model_0000019.pth"
    file.write_bytes(file.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        resumed, _, extra = resumed_from(tmp_path, fall_back=True)
    assert_same(resumed.state_dict(), model.state_dict())
    assert extra["iteration"] == 9
    assert str(file) in caplog.text
    assert str(tmp_path / "model_0000009.pth") in caplog.text


@pytest.mark.parametrize("record", ["", "../model_0000009.pth", "model_0000029.pth"])
def test_a_damaged_record_is_refused_or_fallen_back_from(tmp_path, record):
    saved(tmp_path, 9, 19)
    (tmp_path / "last_checkpoint").write_text(record)
    assert str(tmp_path / "last_checkpoint") in refusal(tmp_path)
    assert resumed_from(tmp_path, fall_back=True)[2]["iteration"] == 19


def test_without_an_intact_checkpoint_the_first_reason_is_stated(tmp_path):
    saved(tmp_path)
    file = tmp_path / "model_0000009.pth"
    file.write_bytes(b"")
    message = refusal(tmp_path, fall_back=True)
    assert f"{file} is empty" in message
    assert "no older checkpoint" in message


def test_a_missing_file_of_weights_is_named(tmp_path):
    _, _, checkpointer = trained(tmp_path)
    with pytest.raises(CheckpointError, match=r"missing\.pth: file not found"):
        checkpointer.resume_or_load(str(tmp_path / "missing.pth"), resume=True)


# Ownership of a checkpoint


def test_another_config_is_refused_with_both_values_and_the_flag(tmp_path):
    saved(tmp_path)
    now = {**IDENTITY, "SEED": 2, "MODEL.RETINANET.FOCAL_LOSS_GAMMA": 1.0}
    message = refusal(tmp_path, identity=now)
    assert "MODEL.RETINANET.FOCAL_LOSS_GAMMA: 2.0 in the checkpoint, 1.0 now\n" in message
    assert "SEED: 1 in the checkpoint, 2 now\n" in message
    assert "--allow-config-change 'SEED'" in message
    assert "json_sha256" not in message


@pytest.mark.parametrize("allowed", ["SEED", "DATASETS.TRAIN", "DATASETS.TRAIN[mine].json_sha256"])
def test_only_what_is_allowed_may_change(tmp_path, allowed, caplog):
    saved(tmp_path)
    now = {**IDENTITY, "SEED": 2, "DATASETS.TRAIN[mine].json_sha256": "def"}
    message = refusal(tmp_path, identity=now, allowed_changes=[allowed])
    assert message.count(" in the checkpoint, ") == 1
    both = ("SEED", "DATASETS.TRAIN")
    with caplog.at_level(logging.WARNING):
        resumed_from(tmp_path, identity=now, allowed_changes=both)
    assert "SEED: 1 in the checkpoint, 2 now" in caplog.text


def test_a_prefix_of_a_key_does_not_allow_another_key(tmp_path):
    saved(tmp_path, identity={"SEED_OF_DATA": 1})
    assert "SEED_OF_DATA" in refusal(
        tmp_path, identity={"SEED_OF_DATA": 2}, allowed_changes=["SEED"]
    )


def test_a_checkpoint_of_another_trainer_is_refused(tmp_path):
    model, _, _ = trained(tmp_path)
    DetectionCheckpointer(model, str(tmp_path)).save("model_0000009", iteration=9)
    message = refusal(tmp_path)
    assert "another trainer" in message
    assert "MODEL.WEIGHTS" in message


def test_weights_alone_cannot_be_resumed_from(tmp_path):
    model, _, _ = trained(tmp_path)
    DetectionCheckpointer(model, str(tmp_path)).save("weights")
    assert "does not state its iteration" in refusal(tmp_path)


def test_a_checkpoint_without_the_optimizer_cannot_be_resumed_from(tmp_path):
    saved(tmp_path)
    edit(tmp_path / "model_0000009.pth", lambda content: content.pop("optimizer"))
    assert "optimizer is missing" in refusal(tmp_path)


def test_a_model_of_another_shape_is_not_resumed(tmp_path):
    saved(tmp_path)

    def cut(content):
        content["model"]["0.weight"] = torch.ones(5, 3)
        del content["model"]["0.bias"]

    edit(tmp_path / "model_0000009.pth", cut)
    message = refusal(tmp_path)
    assert "2 tensors do not match" in message
    assert "0.weight: (5, 3) in the checkpoint, (4, 3) now" in message
    assert "0.bias: absent in the checkpoint, (4,) now" in message


def test_an_optimizer_that_does_not_match_is_an_error(tmp_path):
    saved(tmp_path)

    def change(content):
        content["optimizer"]["param_groups"][0]["params"].pop()

    edit(tmp_path / "model_0000009.pth", change)
    with pytest.raises(CheckpointError, match=r"optimizer in .* does not match"):
        resumed_from(tmp_path)


def test_without_an_identity_a_checkpoint_of_any_run_is_accepted(tmp_path):
    model, _ = saved(tmp_path)
    other, _, checkpointer = trained(tmp_path, steps=0, identity=None)
    checkpointer.resume_or_load("", resume=True)
    assert_same(other.state_dict(), model.state_dict())


def test_without_an_identity_every_checkpoint_is_resumable(tmp_path):
    saved(tmp_path)
    trained(tmp_path, steps=0, identity=None)[2].check_resumable()


def test_weights_alone_are_loaded_from_any_run_and_misfits_are_warned_of(tmp_path, caplog):
    model, _ = saved(tmp_path)
    file = tmp_path / "model_0000009.pth"
    edit(file, lambda content: content["model"].update({"0.weight": torch.ones(5, 3)}))
    other, optimizer, checkpointer = trained(tmp_path, steps=0, identity={"SEED": 7})
    with caplog.at_level(logging.WARNING):
        rest = checkpointer.resume_or_load(str(file), resume=False)
    assert torch.equal(other[0].bias, model[0].bias)
    assert "incompatible" in caplog.text
    assert not optimizer.state
    assert set(rest) == {"iteration", "optimizer"}


def test_another_environment_is_a_warning(tmp_path, caplog, monkeypatch):
    saved(tmp_path)
    now = {**checkpoint_module.environment_identity(), "torch": "9.9"}
    monkeypatch.setattr(checkpoint_module, "environment_identity", lambda _: now)
    with caplog.at_level(logging.WARNING):
        resumed_from(tmp_path)
    expected = f"bit-equality is not guaranteed: torch {torch.__version__} then, 9.9 now"
    assert expected in caplog.text


def test_the_same_environment_is_no_warning(tmp_path, caplog):
    saved(tmp_path)
    with caplog.at_level(logging.WARNING, "focal_plugin"):
        resumed_from(tmp_path)
    assert not caplog.records


# Buffers, and formats


def test_a_buffer_that_is_not_in_the_state_is_restored_if_training_changed_it(tmp_path):
    model, checkpointer = make(tmp_path)
    model.see(5.0)
    checkpointer.save("model_0000009", iteration=9)
    resumed, checkpointer = make(tmp_path)
    resumed.constant.fill_(3.0)  # as another, allowed config would do
    checkpointer.resume_or_load("", resume=True)
    assert resumed.seen() == [5.0, 5.0]
    assert resumed.constant.tolist() == [3.0, 3.0]


def test_restored_buffers_are_saved_again(tmp_path):
    model, checkpointer = make(tmp_path)
    model.see(5.0)
    checkpointer.save("model_0000009", iteration=9)
    for number in (19, 29):
        resumed, checkpointer = make(tmp_path)
        checkpointer.resume_or_load("", resume=True)
        assert resumed.seen() == [5.0, 5.0]
        checkpointer.save(f"model_{number:07d}", iteration=number)


def test_the_running_mean_of_a_normalizer_is_resumed_from(tmp_path):
    identity = {"SEED": 1}
    model, other = (nn.Sequential(nn.Linear(1, 1), EMANormalizer()) for _ in range(2))
    model[1](torch.tensor([7]))
    Checkpointer(model, str(tmp_path), identity=identity).save("model_1", iteration=1)
    Checkpointer(other, str(tmp_path), identity=identity).resume_or_load("", resume=True)
    assert model[1].mean != EMANormalizer().mean
    assert torch.equal(other[1].mean, model[1].mean)


def test_two_processes_keep_their_own_and_fail_together(fork_server, tmp_path):
    own, alike, bad, apart, both, processes = (tmp_path / name for name in "abcdef")
    for folder in (own, alike, bad, apart, both, processes):
        folder.mkdir()
    for folder in (apart, both):
        make(folder)[1].save("model_0000009", iteration=9)
    (both / "model_0000009.pth").write_bytes(b"")
    results = in_two_processes(
        {
            "own": (own_buffers, [(own, 5.0), (own, 7.0)]),
            "alike": (buffers_that_are_alike, [(alike,), (alike,)]),
            "bad": (first_cannot_save, [(bad,), (bad,)]),
            "apart": (resume, [(apart, True), (apart, False)]),
            "both": (resume, [(both, True), (both, True)]),
        },
        processes,
    )
    # Each process resumes with its own buffers. If only weights are loaded, all have the first's.
    assert results["own"] == [([5.0, 5.0], [100.0, 5.0]), ([7.0, 7.0], [100.0, 5.0])]
    stored = torch.load(alike / "model_0000009.pth", weights_only=True)["focal_plugin"]["buffers"]
    assert [list(of_process) for of_process in stored] == [["mean"], []]
    (first, first_s), (second, second_s) = results["bad"]
    assert "model.layer.weight" in first
    assert second == ""
    assert max(first_s, second_s) < 10
    for message in results["apart"]:
        assert message.startswith("process 1 cannot read the checkpoint")
        assert "must be a folder that all machines share" in message
    for message in results["both"]:
        assert "model_0000009.pth is empty" in message
    alone, checkpointer = make(own)
    checkpointer.resume_or_load("", resume=True)
    assert alone.seen() == [5.0, 5.0]


def test_a_zoo_pickle_and_the_query_for_name_matching_are_loaded(tmp_path):
    model, _, checkpointer = trained(tmp_path, steps=0, trust_pickle=True)
    weights = {"0.weight": torch.full((4, 3), 2.0).numpy()}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": weights, "__author__": "me"}))
    checkpointer.resume_or_load(str(tmp_path / "model.pkl"), resume=False)
    assert model[0].weight.unique().tolist() == [2.0]
    torch.save({"model": {"0.weight": torch.full((4, 3), 3.0)}}, tmp_path / "model.pth")
    checkpointer.load(f"{tmp_path / 'model.pth'}?matching_heuristics=True", checkpointables=[])
    assert model[0].weight.unique().tolist() == [3.0]
    with pytest.raises(CheckpointError, match=r"unknown query \?other=1"):
        checkpointer.load(f"{tmp_path / 'model.pth'}?other=1", checkpointables=[])


def test_a_pickle_requires_trust(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="--trust-pickle"):
        trained(tmp_path)[2].load(str(tmp_path / "model.pkl"))
