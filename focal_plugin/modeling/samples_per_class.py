"""Objects or images per class in the training set, for the losses that depend on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from detectron2.config import CfgNode

from ..checks import IllegalOptionError
from ..losses import CLS_LOSS_REGISTRY, ClassificationLoss, class_alpha_of_counts
from ..losses.class_alpha import ALPHA, AUTO
from ..registry import DENSE, ConfigScope
from . import config_scopes
from .federated import is_federated

SAMPLES = "MODEL.FOCAL.CLS_LOSS.SAMPLES_PER_CLASS"
CLASS_ALPHA = "MODEL.FOCAL.CLS_LOSS.CLASS_ALPHA"


class Count(Protocol):
    """Function from the number of classes K to K numbers, one for each class."""

    def __call__(self, num_classes: int) -> Iterable[int]: ...


def set_samples_per_class(cfg: CfgNode, count_objects: Count, count_images: Count) -> None:
    """
    Write what each loss requires of the numbers of objects or images, unless the config sets it.

    These are its `SAMPLES_PER_CLASS`, and its alphas for a `CLASS_ALPHA` of "auto". Proposals have
    one class.

    Args:
        cfg: changed in place.
        count_objects: returns the objects of each class in the training set. It is called only if
            a loss requires the numbers.
        count_images: the same with the images that contain each class.

    Raises:
        ValueError: an option of the alphas is outside its legal range; the message names its key.
    """
    roi_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for config_scope, num_classes in [
        (DENSE, cfg.MODEL.RETINANET.NUM_CLASSES),
        (config_scopes.RPN, roi_classes),
        (config_scopes.ROI_HEADS, roi_classes),
    ]:
        name = config_scope.read(cfg, "MODEL.FOCAL.CLS_LOSS.NAME")
        loss = dict(CLS_LOSS_REGISTRY).get(name)
        if loss is None:
            continue  # building the model raises the error
        keys = set(loss.config_keys.values())
        missing = SAMPLES in keys and not config_scope.read(cfg, SAMPLES)
        automatic = CLASS_ALPHA in keys and config_scope.read(cfg, CLASS_ALPHA) == AUTO
        if not (missing or automatic):
            continue
        count = count_images if loss.counts_images else count_objects
        counts = [int(x) for x in count(num_classes=num_classes)]
        here = [sum(counts)] if config_scope is config_scopes.RPN else counts
        pairs: list[Any] = [config_scope.key(SAMPLES), here] if missing else []
        if automatic:
            pairs += [config_scope.key(CLASS_ALPHA), _class_alpha(cfg, loss, config_scope, here)]
        cfg.merge_from_list(pairs)


def set_images_per_class(cfg: CfgNode, count_images: Count) -> None:
    """
    Write the images of each class for the parts of a box head that are no loss of the plugin.

    These are NorCal and Detectron2's federated loss, which read the `SAMPLES_PER_CLASS` of the box
    head.

    Args:
        cfg: changed in place, unless it has the numbers.
        count_images: see :func:`set_samples_per_class`.
    """
    key = config_scopes.ROI_HEADS.key(SAMPLES)
    federated = is_federated(cfg)
    calibrated = cfg.MODEL.FOCAL.ROI_HEADS.NORCAL_GAMMA > 0
    if (federated or calibrated) and not config_scopes.ROI_HEADS.read(cfg, SAMPLES):
        counts = count_images(num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        pairs: list[Any] = [key, [int(x) for x in counts]]
        cfg.merge_from_list(pairs)


def _class_alpha(
    cfg: CfgNode, loss: type[ClassificationLoss], config_scope: ConfigScope, counts: list[int]
) -> list[float]:
    options = {
        "alpha": "MODEL.RETINANET.FOCAL_LOSS_ALPHA",
        "class_alpha_power": "MODEL.FOCAL.CLS_LOSS.CLASS_ALPHA_POWER",
    }
    values = {name: config_scope.read(cfg, key) for name, key in options.items()}
    alpha = ALPHA if values["alpha"] is None else values["alpha"]
    power = values["class_alpha_power"]
    try:
        return class_alpha_of_counts(counts, alpha=alpha, power=power, with_background=loss.softmax)
    except IllegalOptionError as error:
        key = config_scope.key(options[error.option])
        raise ValueError(f"{key} {error.requirement}") from error
