"""Prior of a fresh head: the probability of an object, a number or "auto"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

PRIOR_KEYS = ("MODEL.RETINANET.PRIOR_PROB", "MODEL.FOCAL.RPN.PRIOR_PROB")
"""Keys of a prior that may be "auto"."""

AUTO = "auto"
"""Value of a key that asks for the share of positives in the training set."""

ANY_PRIOR = 0.01
"""Prior of a model that is built without data."""


def require_prior(key: str, prior: float | str) -> float:
    """
    Return a prior that is a number.

    Raises:
        ValueError: it is not in (0, 1), or is "auto", which only train_net.py replaces.
    """
    if prior == AUTO:
        raise ValueError(
            f"{key} must be a number when a model is built, got auto, which only train_net.py "
            "replaces, by the share of positives in the training set"
        )
    if not (isinstance(prior, float | int) and 0 < prior < 1):
        raise ValueError(f"{key} must be in (0, 1), got {prior}")
    return float(prior)


def automatic_priors(cfg: CfgNode) -> list[str]:
    """Return the keys of :data:`PRIOR_KEYS` that are "auto". A config may lack them."""
    return [key for key in PRIOR_KEYS if _read(cfg, key) == AUTO]


def without_automatic_priors(cfg: CfgNode) -> CfgNode:
    """Return a copy of a config that can be built without data."""
    cfg = cfg.clone()
    cfg.defrost()
    set_priors(cfg, automatic_priors(cfg), ANY_PRIOR)
    return cfg


def _read(cfg: CfgNode, key: str) -> Any:
    value: Any = cfg
    for name in key.split("."):
        value = value.get(name, {})
    return value


def set_priors(cfg: CfgNode, keys: Sequence[str], prior: float) -> None:
    """Set some priors, which may be "auto", in place."""
    for key in keys:
        pair: list[Any] = [key, prior]
        cfg.merge_from_list(pair)
