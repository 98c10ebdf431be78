"""The prior that minimizes the first cross entropy: the share of positives in the training set."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..data.loading.training_set import load_training_set
from ..modeling.prior import automatic_priors, set_priors
from .anchored_set import place_anchors
from .detector import read_detector
from .labeling import label_anchors
from .network_frame import frame_at_test
from .object_table import table_of

MOST_IMAGES = 2000
"""Images whose anchors are labeled, evenly spaced in the training set."""

DIGITS = 3
"""Significant digits of a prior, because a config file shows it."""


def settle_priors(cfg: CfgNode) -> None:
    """
    Replace each prior that is "auto" by the optimal one, see :func:`optimal_prior`.

    Args:
        cfg: changed in place; its datasets are registered and free of errors.

    Raises:
        ValueError: the detector has no anchors, or an option has an illegal value.
    """
    keys = automatic_priors(cfg)
    if keys:
        set_priors(cfg, keys, optimal_prior(cfg))


def optimal_prior(cfg: CfgNode) -> float:
    """
    Return the prior that minimizes the cross entropy before training.

        pi = positives / (anchors * classes)

    Ignored anchors do not count. The matcher of the config labels the anchors of at most
    :data:`MOST_IMAGES` images of the training set, at the size of the evaluation. An RPN has one
    class. (arXiv:1909.04868 section 3.2.)

    Returns:
        a number in (0, 1) of three significant digits; one positive counts if there is none.

    Raises:
        ValueError: the detector has no anchors, or an option has an illegal value.
    """
    dicts = load_training_set(cfg, check_consistency=False)
    step = -(-len(dicts) // MOST_IMAGES)
    table = table_of(tuple(cfg.DATASETS.TRAIN), dicts[:: max(step, 1)])
    detector = read_detector(cfg)
    labeling = label_anchors(place_anchors(detector, table, frame_at_test(cfg)))
    classes = 1 if detector.kind == "RPN" else detector.num_classes
    positives = max(int(labeling.positives.sum()), 1)
    elements = int((labeling.anchors - labeling.ignored).sum()) * classes
    return float(f"{positives / max(elements, positives + 1):.{DIGITS}g}")
