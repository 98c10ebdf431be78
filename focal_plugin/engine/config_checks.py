"""Checks of a config whose violation Detectron2 notices late, or in words about its own code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.layers import get_norm
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    build_backbone,
)
from detectron2.utils.registry import Registry
from PIL import Image

from ..checks import check_choice
from ..names import did_you_mean
from ..registry import DENSE
from .class_names import check_class_names
from .finite import check_solver

NAMES: Mapping[str, Registry] = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
}
"""Keys that name a component of every detector."""

NAMES_OF_RCNN: Mapping[str, Registry] = {
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
}
"""Keys that name a component of `GeneralizedRCNN` only."""

AT_LEAST_ONE = (
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RETINANET.NUM_CONVS",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.MAX_SIZE_TEST",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.MAX_ITER",
    "SOLVER.CHECKPOINT_PERIOD",
)
"""Counts that cannot be 0."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "DATALOADER.SAMPLER_TRAIN": (
        "TrainingSampler",
        "RepeatFactorTrainingSampler",
        "ClassAwareTrainingSampler",
        "RandomSubsetTrainingSampler",
    ),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.CROP.TYPE": ("relative", "relative_range", "absolute", "absolute_range"),
}
"""Keys of a training -> all their values."""

NORMS = ("MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.RETINANET.NORM", "MODEL.ROI_BOX_HEAD.NORM")
"""Keys that name a normalization."""

MATCHERS = ("MODEL.RETINANET", "MODEL.RPN", "MODEL.ROI_HEADS")
"""Nodes whose `IOU_THRESHOLDS` separate their `IOU_LABELS`."""

BOX_WEIGHTS = (
    "MODEL.RETINANET.BBOX_REG_WEIGHTS",
    "MODEL.RPN.BBOX_REG_WEIGHTS",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
)
"""Keys with the weights of x, y, width and height, and of the angle if there is one."""

WITHOUT_ANGLE = ("RetinaNet", "FocalRetinaNet", "RPN", "FocalRPN")
"""Detectors and proposal generators whose boxes have no angle."""


def check_config(cfg: CfgNode, *, training: bool, processes: int) -> None:
    """
    Check device, batch size, datasets and component names, before anything is built.

    Raises:
        KeyError: a component is unknown; the message suggests the nearest name.
        ValueError: a value cannot work; the message names its key.
    """
    if not cfg.OUTPUT_DIR:
        raise ValueError("OUTPUT_DIR is empty: name a folder")
    if cfg.SEED >= 2**32:
        raise ValueError(f"SEED must be < 2**32, got {cfg.SEED}")
    check_device(cfg.MODEL.DEVICE)
    _check_counts(cfg, processes)
    _check_pixels(cfg)
    if training:
        check_solver(cfg)
        _check_augmentation(cfg)
    key = "TRAIN" if training else "TEST"
    if not cfg.DATASETS[key]:
        raise ValueError(f"DATASETS.{key} is empty: name a dataset, such as \"('my_dataset',)\"")
    is_rcnn = cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    for full_key, registry in {**NAMES, **(NAMES_OF_RCNN if is_rcnn else {})}.items():
        _check_name(cfg, full_key, registry)
    _check_anchors(cfg, is_rcnn=is_rcnn)
    _check_boxes(cfg)
    _check_norms(cfg)
    check_class_names(cfg)


def check_device(name: str, *, key: str = "MODEL.DEVICE") -> None:
    """
    Check that a device exists and can compute.

    Args:
        key: the key or the flag that sets it, for the message.

    Raises:
        ValueError: it does not.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{key} is {name!r}: it must be cpu, cuda, cuda:0 or auto") from None
    if device.type == "meta":
        raise ValueError(f"{key} is {name!r}, which computes nothing: set cpu, cuda or auto")
    if device.type != "cuda":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise ValueError(f"{key} is {name!r}, but PyTorch finds no GPU: set {key} cpu, or auto")
    if (device.index or 0) >= count:
        raise ValueError(f"{key} is {name!r}, but the last GPU is cuda:{count - 1}")


@contextmanager
def building_explained(cfg: CfgNode) -> Iterator[None]:
    """
    Replace the error of a model that cannot be built if the feature maps of the config explain it.

    Raises:
        ValueError: a key names a feature map that its source does not have, or the number of
            anchor sizes is not that of the feature maps.
    """
    try:
        yield
    except Exception as error:
        problem = _feature_problem(cfg)
        if problem is None:
            raise
        raise ValueError(problem) from error


def _check_counts(cfg: CfgNode, processes: int) -> None:
    for key in AT_LEAST_ONE:
        if DENSE.read(cfg, key) < 1:
            raise ValueError(f"{key} must be >= 1, got {DENSE.read(cfg, key)}")
    if cfg.DATALOADER.NUM_WORKERS < 0:
        raise ValueError(f"DATALOADER.NUM_WORKERS must be >= 0, got {cfg.DATALOADER.NUM_WORKERS}")
    share = cfg.SOLVER.REFERENCE_WORLD_SIZE or processes
    if cfg.SOLVER.IMS_PER_BATCH % share:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH must be a multiple of the {share} processes, got "
            f"{cfg.SOLVER.IMS_PER_BATCH}"
        )


def _check_pixels(cfg: CfgNode) -> None:
    """Check that the format of images fits the numbers of each channel."""
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    if len(mean) != len(std) or not all(std):
        raise ValueError(
            f"MODEL.PIXEL_MEAN and MODEL.PIXEL_STD must have one number for each channel, and the "
            f"second no 0, got {mean} and {std}"
        )
    try:
        pixels = convert_PIL_to_numpy(Image.new("RGB", (1, 1)), cfg.INPUT.FORMAT)
    except ValueError:
        raise ValueError(
            f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}: it must be BGR, RGB, L or another mode of PIL"
        ) from None
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if channels not in {1, len(mean)}:
        raise ValueError(
            f"MODEL.PIXEL_MEAN has {len(mean)} numbers, but INPUT.FORMAT {cfg.INPUT.FORMAT} has "
            f"{channels} channels"
        )


def _check_augmentation(cfg: CfgNode) -> None:
    for key, choices in CHOICES.items():
        check_choice(key, DENSE.read(cfg, key), choices)
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if not sizes or min(sizes) < 0:
        raise ValueError(f"INPUT.MIN_SIZE_TRAIN must have sizes >= 0, such as (800,), got {sizes}")


def _check_boxes(cfg: CfgNode) -> None:
    for node in MATCHERS:
        thresholds = DENSE.read(cfg, f"{node}.IOU_THRESHOLDS")
        labels = DENSE.read(cfg, f"{node}.IOU_LABELS")
        if thresholds != sorted(thresholds) or len(labels) != len(thresholds) + 1:
            raise ValueError(
                f"{node}.IOU_THRESHOLDS must rise, and IOU_LABELS have one entry more, got "
                f"{thresholds} and {labels}"
            )
    for key in BOX_WEIGHTS:
        weights = DENSE.read(cfg, key)
        if len(weights) not in {4, 5} or min(weights) <= 0:
            raise ValueError(f"{key} must have 4 numbers > 0, got {weights}")


def _check_norms(cfg: CfgNode) -> None:
    for key in NORMS:
        try:
            get_norm(DENSE.read(cfg, key), 32)
        except KeyError as error:
            raise ValueError(
                f"{key} is {error}: it must be BN, SyncBN, FrozenBN, GN, LN or empty"
            ) from None


def _check_name(cfg: CfgNode, full_key: str, registry: Registry) -> None:
    name, known = DENSE.read(cfg, full_key), sorted(dict(registry))
    if name in known or (name == "PrecomputedProposals" and "PROPOSAL" in full_key):
        return
    hint = did_you_mean(name, known) or f"; known names: {', '.join(known)}"
    raise KeyError(f"{full_key} = {name!r} is not registered{hint}")


def _check_anchors(cfg: CfgNode, *, is_rcnn: bool) -> None:
    """Refuse anchors with an angle for a detector without angles, and the reverse."""
    user = cfg.MODEL.PROPOSAL_GENERATOR.NAME if is_rcnn else cfg.MODEL.META_ARCHITECTURE
    key = "MODEL.ANCHOR_GENERATOR.NAME"
    name = DENSE.read(cfg, key)
    has_angle = getattr(ANCHOR_GENERATOR_REGISTRY.get(name), "box_dim", 4) == 5
    if has_angle and user in WITHOUT_ANGLE:
        raise ValueError(
            f"{key} is {name}, whose boxes have an angle, and those of {user} have none: set {key} "
            "DefaultAnchorGenerator"
        )
    if user == "RRPN" and not has_angle:
        raise ValueError(f"{key} is {name}, but RRPN requires RotatedAnchorGenerator")


def _feature_problem(cfg: CfgNode) -> str | None:
    """Return why the feature maps of a config do not fit together, or None."""
    try:
        with torch.device("meta"):
            features = list(build_backbone(cfg).output_shape())
    except Exception:
        wanted, made = "MODEL.FPN.IN_FEATURES", "MODEL.RESNETS.OUT_FEATURES"
        missing = [name for name in DENSE.read(cfg, wanted) if name not in DENSE.read(cfg, made)]
        if not missing:
            return None
        return f"{wanted} names {', '.join(missing)}, but {made} is {list(DENSE.read(cfg, made))}"
    is_rcnn = cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    of_anchors = "MODEL.RPN.IN_FEATURES" if is_rcnn else "MODEL.RETINANET.IN_FEATURES"
    for key in (of_anchors, *(["MODEL.ROI_HEADS.IN_FEATURES"] if is_rcnn else [])):
        missing = [name for name in DENSE.read(cfg, key) if name not in features]
        if missing:
            return (
                f"{key} names {', '.join(map(str, missing))}, but {cfg.MODEL.BACKBONE.NAME} has "
                f"{', '.join(features)}"
            )
    levels = len(DENSE.read(cfg, of_anchors))
    for part in ("SIZES", "ASPECT_RATIOS"):
        key = f"MODEL.ANCHOR_GENERATOR.{part}"
        if len(DENSE.read(cfg, key)) not in {1, levels}:
            return (
                f"{key} has {len(DENSE.read(cfg, key))} lists, but {of_anchors} has {levels} "
                "feature maps: give one list for each, or one for all"
            )
    return None
