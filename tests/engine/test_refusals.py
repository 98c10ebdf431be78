"""Mistakes in a command or a config: one sentence, exit code 2, and no traceback."""

import re
import runpy
import sys

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from focal_plugin.engine import CheckpointError, Refusal, argument_parser, refusals_in_words
from focal_plugin.engine.processes import ranks
from focal_plugin.engine.train import main

from ..conftest import ROOT

CONFIG = "quick_schedules/retinanet_small_instant_test.yaml"
TWO_STAGE = "quick_schedules/faster_rcnn_small_instant_test.yaml"


@pytest.fixture
def refused(tiny_shapes, tmp_path, monkeypatch):
    """Return a function that runs a command that must be refused, and returns the reason."""
    data = f"{tiny_shapes}/annotations.json:{tiny_shapes}/images"
    places = {"DATA": data, "SWAPPED": ":".join(reversed(data.split(":"))), "TMP": str(tmp_path)}
    before = set(DatasetCatalog.list())
    monkeypatch.setattr("focal_plugin.engine.command_line.start_logs", lambda *_: None)

    def run(*arguments, config=CONFIG, in_data=True):
        own = ("DATASETS.TRAIN", "('tiny_shapes',)", "DATASETS.TEST", "('tiny_shapes',)")
        flags = [x for x in arguments if "=" in x or x.startswith("--")]
        pairs = [x for x in arguments if x not in flags]
        for name, value in places.items():
            flags = [flag.replace(name, value) for flag in flags]
        command = ["--config-file", str(config), *flags, "MODEL.DEVICE", "cpu"]
        command += ["OUTPUT_DIR", str(tmp_path / "run"), *(own if in_data else ()), *pairs]
        with pytest.raises(Refusal) as end:
            main(argument_parser().parse_args(command))
        assert end.value.code == 2
        return end.value.text

    yield run
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["SOLVER.IMS_PER_BATCH", "0"], "SOLVER.IMS_PER_BATCH must be >= 1, got 0"),
        (["SOLVER.IMS_PER_BATCH", "-8"], "SOLVER.IMS_PER_BATCH must be >= 1, got -8"),
        (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER must be >= 1, got 0"),
        (["SOLVER.CHECKPOINT_PERIOD", "0"], "SOLVER.CHECKPOINT_PERIOD must be >= 1, got 0"),
        (["DATALOADER.NUM_WORKERS", "-1"], "DATALOADER.NUM_WORKERS must be >= 0, got -1"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu': it must be cpu, cuda, cuda:0 or auto"),
        (["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"], "of FocalRetinaNet have none"),
        (["MODEL.META_ARCHITECTURE", "RetinaNett"], "did you mean 'RetinaNet'?"),
        (["MODEL.BACKBONE.NAME", "resnet"], "MODEL.BACKBONE.NAME = 'resnet' is not registered"),
        (["MODEL.FOCAL.CLS_LOSS.NAME", "FocalLoss"], "did you mean 'PolyFocalLoss'?"),
        (["MODEL.FOCAL.CLS_LOSS.NAME", "SigmoidFocalLos"], "did you mean 'SigmoidFocalLoss'?"),
        (["MODEL.FOCAL.BOX_LOSS.NAME", "GIoU"], "did you mean 'GIoULoss'?"),
        (["MODEL.RETINANET.IN_FEATURES", "['p3', 'p8']"], "IN_FEATURES names p8, but build_small"),
        (["MODEL.RETINANET.IN_FEATURES", "['p3', 'p4']"], "SIZES has 3 lists, but MODEL.RETINANET"),
        (["MODEL.FPN.IN_FEATURES", "['res3', 'res9']"], "MODEL.FPN.IN_FEATURES names res9, but"),
        (["MODEL.WEIGHTS", "no/such.pth"], "MODEL.WEIGHTS no/such.pth: file not found; give the"),
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty: name a dataset"),
        (["MODEL.DEVICE", "meta"], "MODEL.DEVICE is 'meta', which computes nothing"),
        (["OUTPUT_DIR", ""], "OUTPUT_DIR is empty: name a folder"),
        (["SEED", str(2**32)], "SEED must be < 2**32, got 4294967296"),
        (["MODEL.PIXEL_MEAN", "[1.0]"], "PIXEL_STD must have one number for each channel"),
        (["MODEL.PIXEL_STD", "[1, 0, 1]"], "PIXEL_STD must have one number for each channel"),
        (["MODEL.PIXEL_MEAN", "[1]", "MODEL.PIXEL_STD", "[1]"], "BGR has 3 channels"),
        (["INPUT.FORMAT", "XYZ"], "INPUT.FORMAT is 'XYZ': it must be BGR, RGB, L"),
        (["INPUT.FORMAT", "RGBA"], "PIXEL_MEAN has 3 numbers, but INPUT.FORMAT RGBA has 4"),
        (["INPUT.MIN_SIZE_TRAIN", "()"], "INPUT.MIN_SIZE_TRAIN must have sizes >= 0"),
        (["INPUT.MAX_SIZE_TRAIN", "0"], "INPUT.MAX_SIZE_TRAIN must be >= 1, got 0"),
        (["INPUT.RANDOM_FLIP", "both"], "INPUT.RANDOM_FLIP must be one of"),
        (["INPUT.CROP.TYPE", "center"], "INPUT.CROP.TYPE must be one of"),
        (["DATALOADER.SAMPLER_TRAIN", "Random"], "DATALOADER.SAMPLER_TRAIN must be one of"),
        (["MODEL.FPN.OUT_CHANNELS", "0"], "MODEL.FPN.OUT_CHANNELS must be >= 1, got 0"),
        (["MODEL.FPN.NORM", "Batch"], "MODEL.FPN.NORM is 'Batch': it must be BN, SyncBN"),
        (["MODEL.RETINANET.NUM_CONVS", "0"], "MODEL.RETINANET.NUM_CONVS must be >= 1, got 0"),
        (["MODEL.RETINANET.IOU_THRESHOLDS", "[0.5, 0.4]"], "RETINANET.IOU_THRESHOLDS must rise"),
        (["MODEL.RETINANET.IOU_LABELS", "[0, 1]"], "and IOU_LABELS have one entry more"),
        (["MODEL.RETINANET.BBOX_REG_WEIGHTS", "(1, 1)"], "BBOX_REG_WEIGHTS must have 4 numbers"),
        (["SOLVER.MAX_ITERS", "3"], "did you mean 'SOLVER.MAX_ITER'?"),
        (["SOLVER.BASE_LR", "fast"], "SOLVER.BASE_LR must be a float, such as "),
        (["SOLVER.LR_SCHEDULER_NAME", "Nope"], "Unknown LR scheduler: Nope (in detectron2/"),
    ],
)
def test_a_value_that_cannot_work_is_named_with_what_to_do(refused, arguments, reason):
    text = refused(*arguments)
    assert reason in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"], "those of FocalRPN have none"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"], "but RRPN requires RotatedAnchorGenerator"),
        (["MODEL.ROI_HEADS.NAME", "FocalROIHead"], "did you mean 'FocalROIHeads'?"),
        (["MODEL.ROI_HEADS.IN_FEATURES", "['p9']"], "IN_FEATURES names p9, but build_small"),
        (["MODEL.RPN.IN_FEATURES", "['p2']"], "MODEL.RPN.IN_FEATURES names p2, but build_small"),
    ],
)
def test_the_same_for_a_detector_of_two_stages(refused, arguments, reason):
    text = refused(*arguments, config=TWO_STAGE)
    assert reason in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("", "no config is given: add --config-file FILE, such as"),
        ("configs/retinanet_smal.yaml", "did you mean 'Shapes-Detection/retinanet_small.yaml'?"),
        ("nothing/like/it.yaml", "no file and no shipped config is named 'nothing/like/it.yaml'"),
        (ROOT / "configs", "is a folder, not a config file"),
    ],
)
def test_a_config_that_does_not_exist_is_named_with_the_nearest(refused, config, reason):
    assert reason in refused(config=config)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--dataset=a=SWAPPED"], "the order is a="),
        (["--dataset=a=TMP/no.json:TMP"], "--dataset a: file not found: "),
        (["--dataset=a=TMP"], "--dataset must be NAME=annotations.json:image_dir, got 'a="),
        (["--dataset=my_train=DATA"], """my_train is registered but not used: DATASETS.TRAIN is"""),
        (["--dataset=a=DATA", "--dataset=b=DATA"], """set DATASETS.TRAIN "('a', 'b')\""""),
        (
            ["--dataset=x_train=DATA", "--dataset=y_val=DATA"],
            """DATASETS.TRAIN "('x_train',)\"""",
        ),
        (["--eval-only", "--dataset=v=DATA"], """set DATASETS.TEST "('v',)\""""),
    ],
)
def test_datasets_of_the_command_are_used_or_refused(refused, flags, reason):
    text = refused(*flags, in_data=False)
    assert reason in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["my_train", "train", "coco_train", "dogs_2017_train"])
def test_a_dataset_of_ones_own_is_not_taken_for_another(refused, name):
    text = refused("DATASETS.TRAIN", f"('{name}',)", in_data=False)
    assert f"no dataset is named '{name}'; register it with --dataset {name}=JSON:IMAGES" in text


def test_a_typo_in_the_name_of_a_known_dataset_is_corrected(refused):
    text = refused("DATASETS.TRAIN", "('focal_shape_train',)", in_data=False)
    assert "did you mean 'focal_shapes_train'?" in text


@pytest.mark.parametrize(
    "address", ["https://127.0.0.1:9/model.pth", "http://127.0.0.1:9/a/b.pkl", "detectron2://x.pkl"]
)
def test_weights_that_cannot_be_fetched_name_the_key(refused, address, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("iopath.common.file_io.download", no_network)
    text = refused("MODEL.WEIGHTS", address)
    assert f"MODEL.WEIGHTS {address} cannot be fetched (no network)" in text
    assert 'random weights with MODEL.WEIGHTS ""' in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_named(refused, device):
    text = refused("MODEL.DEVICE", device)
    assert f"MODEL.DEVICE is '{device}', but PyTorch finds no GPU: set MODEL.DEVICE cpu" in text


def test_a_gpu_beyond_the_last_is_named(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "the last GPU is cuda:1" in refused("MODEL.DEVICE", "cuda:2")


def test_a_batch_that_processes_cannot_share_is_named(refused, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    assert "must be a multiple of the 3 processes, got 8" in refused("SOLVER.IMS_PER_BATCH", "8")


def test_a_refusal_has_the_type_and_the_message():
    with pytest.raises(SystemExit) as end, refusals_in_words():
        raise CheckpointError("model.pth is empty")
    assert end.value.code == 2
    # it was raised in this file, which is not one of the package
    assert end.value.text.startswith("CheckpointError: model.pth is empty (in tests/engine/test_")


@pytest.mark.parametrize("raised", [AssertionError(), TypeError("no\nway"), KeyError("p9")])
def test_an_unexpected_error_is_one_line_with_its_place(raised):
    with pytest.raises(Refusal) as end, refusals_in_words():
        raise raised
    assert re.fullmatch(
        r"(AssertionError: `raise raised`|TypeError: no way|KeyError: p9) "
        r"\(in tests/engine/test_refusals\.py, line \d+; --traceback shows the calls\)",
        end.value.text,
    )


def test_with_traceback_an_error_stays_as_it_is():
    with pytest.raises(KeyError, match="p9"), refusals_in_words(with_traceback=True):
        raise KeyError("p9")


def test_the_script_prints_the_reason_once(monkeypatch, capsys):
    for arguments, code, line in [
        (["--num-gpus", "-1"], 2, "CommandError: the number of GPUs must be >= 0, got -1\n"),
        ([], 2, "ValueError: no config is given: add --config-file FILE, such as "),
    ]:
        monkeypatch.setattr(sys, "argv", ["train_net.py", *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "train_net.py"), run_name="__main__")
        shown = capsys.readouterr()
        assert (end.value.code, shown.out) == (code, "")
        assert shown.err.startswith(line)
        assert shown.err.count("\n") == 1


def test_a_process_of_several_reports_the_reason_to_its_parent():
    assert ranks._read_error(Refusal("KeyError: no such key")) == (2, "KeyError: no such key")


def test_ctrl_c_during_the_imports_ends_without_a_traceback(monkeypatch):
    real = __import__

    def interrupted(name, *args, **keywords):
        if name == "focal_plugin.engine.train":
            raise KeyboardInterrupt
        return real(name, *args, **keywords)

    monkeypatch.setattr("builtins.__import__", interrupted)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "train_net.py"), run_name="__main__")
    assert end.value.code == 130
