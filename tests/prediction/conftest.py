"""A run as a training leaves it, of a narrow detector with random weights."""

import json

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from focal_plugin.engine import Checkpointer, Trainer
from focal_plugin.engine.hooks.run_record import describe_environment

from ..modeling.pairs import RCNN, RETINANET, SMALL
from ..modeling.toy import narrow_cfg

DATA = ("DATASETS.TRAIN", "('tiny_shapes',)", "DATASETS.TEST", "('tiny_shapes',)")
CLASSES = ("MODEL.RETINANET.NUM_CLASSES", 5, "MODEL.ROI_HEADS.NUM_CLASSES", 5)
SIZE = ("INPUT.MIN_SIZE_TEST", 64, "SOLVER.MAX_ITER", 4)


def make_run(folder, file=RETINANET, *opts, iteration=3, name="model_final"):
    """Write config, environment and weights of a run into a folder; return config and model."""
    names = list(MetadataCatalog.get("tiny_shapes").thing_classes)
    cfg = narrow_cfg(file, *SMALL, *CLASSES, *DATA, *SIZE, *opts)
    cfg.OUTPUT_DIR, cfg.MODEL.FOCAL.CLASS_NAMES = str(folder), names
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).eval()
    with torch.no_grad():  # random weights give all anchors the score of the prior
        for part, x in model.named_parameters():
            if "cls_score" in part and x.dim() > 1:
                x.mul_(30)
    Checkpointer(model, str(folder), class_names=names).save(name, iteration=iteration)
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "env.json").write_text(json.dumps(describe_environment(cfg)))
    return cfg, model


@pytest.fixture(scope="package")
def run(tiny_shapes, tmp_path_factory):
    """Return the folder of a run that was evaluated on twelve images."""
    folder = tmp_path_factory.mktemp("run")
    cfg, model = make_run(folder)
    Trainer.test(cfg, model)
    return folder


@pytest.fixture(scope="package")
def two_stage_model():
    torch.manual_seed(0)
    return build_model(narrow_cfg(RCNN, *SMALL, *CLASSES)).eval()


@pytest.fixture
def images(tiny_shapes):
    return sorted((tiny_shapes / "images").iterdir())
