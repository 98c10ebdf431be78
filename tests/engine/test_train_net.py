"""train_net.py and a Detectron2 training script, called as users do."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
import yaml

from focal_plugin.data.shapes.painting import CLASSES

from ..conftest import ROOT
from ..forked import NARROW, run_script

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fork_server")]

QUICK = ROOT / "configs/quick_schedules"
CONFIG = QUICK / "retinanet_small_instant_test.yaml"
TWO_STAGE = QUICK / "faster_rcnn_small_instant_test.yaml"
STOCK_SCRIPT = ROOT / "tests/engine/stock_train_net.py"
ITERATIONS = 4


def opts(tiny_shapes, output, *more):
    """Return options for a four-iteration CPU training on the twelve images of `--dataset`."""
    return [
        *("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.CHECKPOINT_PERIOD", 2),
        *("DATASETS.TRAIN", "('tiny',)", "DATASETS.TEST", "('tiny',)"),
        *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", output),
        *(part for pair in NARROW.items() for part in pair),
        *more,
    ]


def train_net(*arguments, config=CONFIG):
    return run_script(ROOT / "train_net.py", "--config-file", config, *arguments)


def dataset(tiny_shapes):
    return ["--dataset", f"tiny={tiny_shapes}/annotations.json:{tiny_shapes}/images"]


def test_trains_and_evaluates_a_users_data(tiny_shapes, tmp_path):
    trained = train_net(*dataset(tiny_shapes), *opts(tiny_shapes, tmp_path))
    assert trained.returncode == 0, trained.stderr
    check_trained(tmp_path, {"num_pos_anchors"})
    assert 5 < len(trained.stdout.splitlines()) < 50
    assert "This run is too short for a result: SOLVER.MAX_ITER is 4" in trained.stdout
    details = (tmp_path / "log.txt").read_text()
    assert "Environment info" in details
    assert "Running with full config" in details
    assert "\x1b" not in trained.stdout + trained.stderr + details

    config = (tmp_path / "config.yaml").read_text()
    names = yaml.safe_load(config)["MODEL"]["FOCAL"]["CLASS_NAMES"]
    assert names == list(CLASSES)
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["focal_plugin"]["class_names"] == names
    only_tested = opts(tiny_shapes, tmp_path, "DATASETS.TRAIN", "('not_registered',)")
    evaluated = train_net("--eval-only", *dataset(tiny_shapes), *only_tested)
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"Loading from {tmp_path}/model_final.pth" in evaluated.stdout
    assert "copypaste: AP,AP50,AP75,APs,APm,APl" in evaluated.stdout
    assert (tmp_path / "config.yaml").read_text() == config

    again = train_net(*dataset(tiny_shapes), *opts(tiny_shapes, tmp_path))
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith(f"OutputFolderError: the output folder {tmp_path} holds a run")
    assert again.stderr.count("\n") == 1
    quiet = train_net("--resume", "--quiet", *dataset(tiny_shapes), *opts(tiny_shapes, tmp_path))
    assert quiet.returncode == 0
    assert quiet.stdout.startswith("WARNING")


def test_trains_a_detector_of_two_stages(tiny_shapes, tmp_path):
    arm = ("--arm", "rpn_tensorpack")
    options = [*dataset(tiny_shapes), *opts(tiny_shapes, tmp_path)]
    trained = train_net(*arm, *options, config=TWO_STAGE)
    assert trained.returncode == 0, trained.stderr
    scalars = {"loss_rpn_cls", "loss_rpn_loc", "rpn/loc_to_cls_ratio", "rpn/p3/precision_th0.1"}
    check_trained(tmp_path, scalars)


def test_an_arm_has_a_folder_of_its_own_and_another_family_is_refused(tiny_shapes, tmp_path):
    options = opts(tiny_shapes, tmp_path)
    del options[options.index("OUTPUT_DIR") : options.index("OUTPUT_DIR") + 2]
    config = tmp_path / "base.yaml"
    config.write_text(f"_BASE_: {CONFIG}\nOUTPUT_DIR: {tmp_path}/out\n")
    arms = ("--arm", "ohem", "--arm", "box_giou")
    trained = train_net(*arms, *dataset(tiny_shapes), *options, config=config)
    assert trained.returncode == 0, trained.stderr
    saved = yaml.safe_load((tmp_path / "out/ohem+box_giou/config.yaml").read_text())
    assert saved["MODEL"]["FOCAL"]["MINING"]["NAME"] == "OHEMMiner"
    assert saved["MODEL"]["FOCAL"]["BOX_LOSS"]["NAME"] == "GIoULoss"
    refused = train_net("--arm", "rpn_ohem", *dataset(tiny_shapes), *options, config=config)
    assert refused.returncode != 0
    assert "'rpn_ohem' is for faster_rcnn, but the base is for retinanet" in refused.stderr


def test_a_loss_from_outside_trains_by_its_name_and_resumes_with_the_same_source(
    tiny_shapes, tmp_path
):
    losses = tmp_path / "my_losses.py"
    losses.write_text((ROOT / "examples/my_losses/my_losses.py").read_text())
    loss = ("MODEL.FOCAL.CLS_LOSS.NAME", "SquaredErrorLoss", "DATASETS.TEST", "()")
    arguments = ["--import", losses, *dataset(tiny_shapes), *opts(tiny_shapes, tmp_path, *loss)]
    arguments += ["MODEL.FOCAL.CLS_LOSS.SQUARED_ERROR_FACTOR", 3.0, "SOLVER.MAX_ITER", 2]
    trained = train_net(*arguments)
    assert trained.returncode == 0, trained.stderr
    record = json.loads((tmp_path / "env.json").read_text())
    assert record["imports"][-1] == str(losses)
    digest = hashlib.sha256(losses.read_bytes()).hexdigest()
    assert record["components"] == {"CLS_LOSS SquaredErrorLoss of my_losses": digest}
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 1

    losses.write_text(losses.read_text().replace("4.0", "4.5"))
    refused = train_net("--resume", *arguments)
    assert refused.returncode == 2, refused.stderr
    assert "SquaredErrorLoss of my_losses, sha256" in refused.stderr


def check_trained(folder, scalars):
    """Check that the training finished and was evaluated, and that it logged these scalars."""
    assert torch.load(folder / "model_final.pth", weights_only=True)["iteration"] == ITERATIONS - 1
    metrics = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert metrics[-1]["iteration"] == ITERATIONS  # the evaluation counts as one more iteration
    assert "bbox/AP" in metrics[-1]
    assert {"loss_cls", "loss_box_reg", "bbox/AP", *scalars} <= set().union(*metrics)


def test_an_unmodified_detectron2_script_accepts_our_configs(tmp_path):
    """The variable takes effect when Detectron2 is imported, so this starts a new Python."""
    small = ["SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0]
    output = ["OUTPUT_DIR", tmp_path, "MODEL.DEVICE", "cpu", "DATASETS.TEST", "()"]
    data = ["DATASETS.TRAIN", "('focal_shapes_val',)"]  # a quarter of the images
    command = [sys.executable, STOCK_SCRIPT, "--config-file", CONFIG, *small, *output, *data]
    trained = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_ENV_MODULE": "focal_plugin.env"},
    )
    assert trained.returncode == 0, trained.stderr
    assert "FocalRetinaNet" in trained.stdout
    assert (tmp_path / "model_final.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL.FOCAL.NORMALISER", "ema"], "did you mean 'MODEL.FOCAL.NORMALIZER'"),
        (["MODEL.RETINANET.FOCAL_LOSS_GAMMA", "-1.0"], "FOCAL_LOSS_GAMMA must be >= 0, got -1"),
    ],
)
def test_an_invalid_command_ends_before_the_first_iteration(
    tiny_shapes, tmp_path, arguments, message
):
    failed = train_net(*dataset(tiny_shapes), *opts(tiny_shapes, tmp_path, *arguments))
    assert failed.returncode != 0
    assert message in failed.stderr.splitlines()[-1]
    assert not (tmp_path / "metrics.json").exists()


def test_help_shows_examples():
    shown = train_net("--help")
    assert shown.returncode == 0
    for word in ("--dataset", "--eval-only", "--resume", "--num-gpus", "--dist-url"):
        assert word in shown.stdout
    assert "Custom dataset in COCO format" in shown.stdout  # our examples, not Detectron2's
