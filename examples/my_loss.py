#!/usr/bin/env python3
"""
Add a custom loss from outside the package, and train with it by name.

    python examples/my_loss.py [OUTPUT_FOLDER]

Trains for two iterations on eight generated images. Copy this file, and insert your own formula and
data.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from torch import Tensor

from focal_plugin import get_cfg
from focal_plugin.checks import check_option
from focal_plugin.config_file import get_config_file
from focal_plugin.data import ShapesSpec, draw_dataset, register_shapes
from focal_plugin.engine import Trainer
from focal_plugin.losses import CLS_LOSS_REGISTRY
from focal_plugin.losses.elementwise import ElementwiseLoss
from focal_plugin.ops import Formula, Point, Terms
from focal_plugin.registry import configurable


@dataclass(frozen=True)
class Power(Formula):
    """Formula (1 - p_t)^power. Any loss of one logit has this form: its value and its slope."""

    power: float

    def value(self, at: Point) -> Tensor:
        return at.q**self.power  # at.p is p_t, at.q is 1 - p_t

    def slope(self, at: Point) -> Tensor:
        return -self.power * at.q**self.power * at.p


@CLS_LOSS_REGISTRY.register()
class SigmoidPowerLoss(ElementwiseLoss):
    """Sum of the formula over all classes of all anchors that are not ignored."""

    config_keys = {"power": "MODEL.FOCAL.CLS_LOSS.POWER"}

    @configurable
    def __init__(self, *, power: float = 2.0) -> None:
        super().__init__()
        self.power = check_option("power", power, low=1)

    def terms(self, logits: Tensor) -> Terms:
        return Terms(Power(self.power), Power(self.power))  # positives, negatives


def config(output: Path) -> CfgNode:
    """Return a config of the package with this loss, limited to two iterations."""
    cfg = get_cfg()
    cfg.MODEL.FOCAL.CLS_LOSS.POWER = 2.0  # adds the key with its default
    cfg.merge_from_file(get_config_file("Shapes-Detection/retinanet_small.yaml"))
    cfg.MODEL.FOCAL.CLS_LOSS.NAME = "SigmoidPowerLoss"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("my_shapes",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.MAX_ITER = 2
    cfg.SOLVER.STEPS = ()
    cfg.OUTPUT_DIR = str(output)
    return cfg


def main(output: Path) -> Trainer:
    data = output / "data"
    spec = ShapesSpec(images=8, image_size=64, radius=(6, 12))
    draw_dataset(spec, data)
    register_shapes("my_shapes", spec, data)
    trainer = Trainer(config(output))
    trainer.train()
    print("loss_cls of the last iteration:", trainer.storage.latest()["loss_cls"][0])
    return trainer


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1] if sys.argv[1:] else folder))
