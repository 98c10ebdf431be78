import argparse

import pytest
import torch
from torch import nn

from focal_plugin.data import check_datasets
from focal_plugin.engine import Checkpointer, CheckpointError, Trainer
from focal_plugin.engine.evaluated_weights import choose_weights, load_model

from ..cached_configs import read_cfg
from ..forked import NARROW


def arguments(*opts, resume=False, allow_partial_weights=False):
    return argparse.Namespace(
        opts=list(opts), resume=resume, allow_partial_weights=allow_partial_weights
    )


@pytest.fixture
def cfg(tmp_path):
    narrow = [part for pair in NARROW.items() for part in pair]
    cfg = read_cfg("Shapes-Detection/retinanet_small.yaml", *narrow)
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR, cfg.SEED = "cpu", str(tmp_path), 1
    return cfg


@pytest.mark.parametrize("resume", [False, True])
def test_without_any_weights_an_evaluation_is_refused(cfg, resume):
    with pytest.raises(CheckpointError, match="would evaluate a random model") as error:
        choose_weights(cfg, arguments(resume=resume))
    assert "\n" not in str(error.value)
    assert cfg.OUTPUT_DIR in str(error.value)
    choose_weights(cfg, arguments(resume=resume, allow_partial_weights=True))
    assert not cfg.MODEL.WEIGHTS


def test_a_finished_run_is_evaluated_with_its_last_weights(cfg, tmp_path):
    (tmp_path / "model_final.pth").touch()
    cfg.MODEL.WEIGHTS = "backbone.pkl"
    choose_weights(cfg, arguments())
    assert str(tmp_path / "model_final.pth") == cfg.MODEL.WEIGHTS


def test_weights_of_the_command_line_have_priority(cfg, tmp_path):
    (tmp_path / "model_final.pth").touch()
    cfg.MODEL.WEIGHTS = "other.pth"
    choose_weights(cfg, arguments("MODEL.WEIGHTS", "other.pth"))
    assert cfg.MODEL.WEIGHTS == "other.pth"


def test_an_unfinished_run_needs_the_flag_for_its_last_checkpoint(cfg, tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    with pytest.raises(CheckpointError, match="add --resume for its last checkpoint"):
        choose_weights(cfg, arguments())
    choose_weights(cfg, arguments(resume=True))


def test_a_checkpoint_of_another_class_count_lists_what_was_not_loaded(cfg, tmp_path):
    model = Trainer.build_model(cfg)
    cfg.MODEL.WEIGHTS = str(tmp_path / "five.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    loaded = load_model(cfg, arguments(), {}).state_dict()
    assert torch.equal(loaded["head.cls_score.weight"], model.state_dict()["head.cls_score.weight"])
    cfg.MODEL.RETINANET.NUM_CLASSES = 1
    total = len(Trainer.build_model(cfg).state_dict())
    with pytest.raises(CheckpointError) as error:
        load_model(cfg, arguments(), {})
    first, tensors, remedy = str(error.value).splitlines()
    assert first.startswith("2 of the ")
    assert int(first.split()[3]) <= total
    assert tensors.startswith(
        "  head.cls_score.weight and bias: (45, 32, 3, 3) in the file, (9, 32"
    )
    assert "--allow-partial-weights" in remedy
    load_model(cfg, arguments(allow_partial_weights=True), {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_not_evaluated(cfg, tmp_path, value):
    state = Trainer.build_model(cfg).state_dict()
    state["head.cls_score.weight"][0, 0, 0, 0] = value
    cfg.MODEL.WEIGHTS = str(tmp_path / "diverged.pth")
    torch.save({"model": state}, cfg.MODEL.WEIGHTS)
    with pytest.raises(
        CheckpointError, match=r"of head\.cls_score\.weight are not finite"
    ) as error:
        load_model(cfg, arguments(), {})
    assert "\n" not in str(error.value)


def parts(**sizes):
    return nn.ModuleDict({name: nn.Linear(size, size) for name, size in sizes.items()})


@pytest.mark.parametrize(
    ("stored", "wanted", "reasons"),
    [
        ({"a": 2}, {"a": 2}, {}),
        ({"a": 2, "more": 3}, {"a": 2}, {}),
        ({"a": 2}, {"a": 2, "b": 2}, {"b.weight": "not in the file", "b.bias": "not in the file"}),
        ({"a": 2, "b": 3}, {"a": 2, "b": 2}, {"b.bias": "(3,) in the file, (2,) in the model"}),
    ],
)
def test_each_tensor_that_is_not_loaded_has_its_reason(tmp_path, stored, wanted, reasons):
    torch.save(parts(**stored).state_dict(), tmp_path / "model.pth")
    checkpointer = Checkpointer(parts(**wanted))
    assert set(checkpointer.not_loaded) == set(parts(**wanted).state_dict())
    checkpointer.load(str(tmp_path / "model.pth"))
    assert {name: checkpointer.not_loaded.get(name) for name in reasons} == reasons
    assert {name.split(".")[0] for name in checkpointer.not_loaded} == ({"b"} if reasons else set())
    if reasons:
        with pytest.raises(CheckpointError, match=r"2 of the 4 tensors .*\n  b\.weight and bias: "):
            checkpointer.check_complete()
    else:
        checkpointer.check_complete()


@pytest.mark.parametrize("stored", [{"x": 2}, {"a": 3}, {"x": 3, "y": 2}])
def test_weights_that_fit_nothing_are_refused_also_for_a_training(tmp_path, stored):
    torch.save(parts(**stored).state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"model\.pth fits no tensor of the model, such as a"):
        Checkpointer(parts(a=2)).load(str(tmp_path / "model.pth"))


def test_the_counter_of_batch_norm_may_be_missing(tmp_path):
    model = nn.BatchNorm2d(2)
    state = {name: x for name, x in model.state_dict().items() if "num_batches" not in name}
    torch.save({"model": dict(state)}, tmp_path / "model.pth")
    checkpointer = Checkpointer(model)
    checkpointer.load(str(tmp_path / "model.pth"))
    checkpointer.check_complete()


@pytest.mark.usefixtures("tiny_shapes")
def test_an_evaluation_does_not_require_a_registered_training_set(cfg):
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("nobody_registered_it",), ("tiny_shapes",)
    (report,) = check_datasets(cfg, training=False)
    assert report.name == "tiny_shapes"
    with pytest.raises(KeyError, match="no dataset is named 'nobody_registered_it'"):
        check_datasets(cfg)
