"""
Recipes for each size of model to train on images of one's own.

A recipe is data. The numbers that depend on the images or on the machine are not in it: see
:mod:`.design`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Setting(NamedTuple):
    """
    One config key.

    Attributes:
        why: reason for the value, the comment of its line.
    """

    key: str
    value: Any
    why: str


@dataclass(frozen=True)
class Recipe:
    """
    Recipe of one size of model.

    Attributes:
        about: the model in a few words.
        weights: `MODEL.WEIGHTS`; "" for random weights.
        settings: keys that depend on neither the data nor the machine.
        from_scratch: keys to add where ``weights`` cannot be fetched.
        input_sizes: lengths of the shorter side of an image to choose from, rising, in pixels.
        object_px: least median size of the objects of every class, in pixels of the input.
        batch: images of a step, if there is memory for them.
        lr: learning rate of ``lr_batch`` images; that of another batch is in proportion.
        warmup: iterations in which the learning rate rises.
        steps: shares of the iterations after which the learning rate falls tenfold.
        least: iterations below which the model has learned nothing.
        enough: iterations from which on a comparison means something.
        most_passes: passes over the training images after which more iterations do not help, unless
            these are fewer than ten times ``enough``.
    """

    about: str
    weights: str
    settings: tuple[Setting, ...]
    from_scratch: tuple[Setting, ...]
    input_sizes: tuple[int, ...]
    object_px: float
    batch: int
    lr: float
    lr_batch: int
    warmup: int
    steps: tuple[float, ...]
    least: int
    enough: int
    most_passes: float


_RETINANET = (
    Setting("VERSION", 2, "the form of Detectron2's configs"),
    Setting("MODEL.META_ARCHITECTURE", "FocalRetinaNet", "RetinaNet whose loss is a key"),
    Setting("MODEL.RETINANET.IOU_THRESHOLDS", [0.4, 0.5], "background below, an object above"),
    Setting("MODEL.RETINANET.IOU_LABELS", [0, -1, 1], "and between the two, ignored"),
    Setting("MODEL.RETINANET.SMOOTH_L1_LOSS_BETA", 0.0, "L1, as in Detectron2's RetinaNet"),
)


def _octaves(*sizes: int) -> list[list[int]]:
    """Return each size with a third and two thirds of an octave more, rounded to pixels."""
    return [[round(size * 2 ** (third / 3)) for third in range(3)] for size in sizes]


_UNTRAINED_PIXELS = Setting(
    "MODEL.PIXEL_STD",
    [57.375, 57.12, 58.395],
    "pixels of unit variance: no trained weights expect others",
)

SMALL = Recipe(
    about="RetinaNet with a small ResNet-FPN, from random weights",
    weights="",
    settings=(
        *_RETINANET,
        Setting("MODEL.BACKBONE.NAME", "build_small_resnet_fpn_backbone", "trains on a CPU"),
        Setting("MODEL.BACKBONE.FREEZE_AT", 0, "no layer is frozen: all start from random weights"),
        _UNTRAINED_PIXELS,
        Setting("MODEL.RESNETS.NORM", "BN", "a norm that trains from random weights"),
        Setting("MODEL.RESNETS.STEM_OUT_CHANNELS", 24, "the width of the small backbone"),
        Setting("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"], "strides 8, 16 and 32"),
        Setting("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "strides 8, 16 and 32"),
        Setting("MODEL.FPN.OUT_CHANNELS", 64, "a quarter of the large model"),
        Setting("MODEL.FPN.NORM", "GN", "a norm that trains from random weights"),
        Setting("MODEL.FOCAL.FPN.TOP_BLOCK", "", "no P6 and P7: three levels cover the objects"),
        Setting("MODEL.RETINANET.IN_FEATURES", ["p3", "p4", "p5"], "the levels with anchors"),
        Setting("MODEL.ANCHOR_GENERATOR.SIZES", _octaves(16, 32, 64), "two strides of each level"),
        Setting("MODEL.RETINANET.NUM_CONVS", 2, "half of the large model"),
        Setting("MODEL.RETINANET.NORM", "GN", "a norm that trains from random weights"),
    ),
    from_scratch=(),
    input_sizes=(128, 192, 256, 320, 384, 512, 640, 800),
    object_px=16,  # two cells of the finest level
    batch=8,
    lr=0.05,
    lr_batch=16,
    warmup=50,
    steps=(0.8, 0.93),
    least=60,
    enough=200,
    most_passes=36,  # COCO's 3x schedule
)

R50 = Recipe(
    about="RetinaNet with ResNet-50-FPN, as COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    weights="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    settings=(
        *_RETINANET,
        Setting("MODEL.BACKBONE.NAME", "build_focal_resnet_fpn_backbone", "ResNet with an FPN"),
        Setting("MODEL.RESNETS.DEPTH", 50, "ResNet-50"),
        Setting("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"], "strides 8, 16 and 32"),
        Setting("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "strides 8, 16 and 32"),
        Setting(
            "MODEL.ANCHOR_GENERATOR.SIZES",
            _octaves(32, 64, 128, 256, 512),
            "those of the paper: four strides of each level",
        ),
    ),
    from_scratch=(
        Setting("MODEL.BACKBONE.FREEZE_AT", 0, "no layer is frozen: all start from random weights"),
        _UNTRAINED_PIXELS,
        Setting("MODEL.RESNETS.NORM", "GN", "a norm that trains from random weights"),
        Setting("MODEL.RESNETS.STRIDE_IN_1X1", False, "as in Detectron2's models from scratch"),
        Setting("MODEL.FPN.NORM", "GN", "a norm that trains from random weights"),
        Setting("MODEL.RETINANET.NORM", "GN", "a norm that trains from random weights"),
    ),
    input_sizes=(512, 640, 800),
    object_px=16,  # two cells of the finest level
    batch=16,
    lr=0.01,
    lr_batch=16,
    warmup=500,
    steps=(0.67, 0.89),
    least=200,
    enough=1000,
    most_passes=36,  # COCO's 3x schedule
)

RECIPES = {"small": SMALL, "r50": R50}
"""Value of `--size` -> recipe."""
