"""
The registry of classification losses, their common base, and building parts from a config.

This is the only file of `losses` that knows Detectron2, and all it takes from it is `Registry` and
`configurable`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from detectron2.config import configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from yacs.config import CfgNode

__all__ = [
    "CLS_LOSS_REGISTRY",
    "ClassificationLoss",
    "ConfigurableModule",
    "IllegalOptionError",
    "build_cls_loss",
    "build_named",
    "configurable",
]

CLS_LOSS_REGISTRY = Registry("CLS_LOSS")
CLS_LOSS_REGISTRY.__doc__ = """
Registry of classification losses, chosen by `MODEL.FOCAL.CLS_LOSS.NAME`.

A registered class is a :class:`ClassificationLoss`, constructed as `Loss(cfg)` or with its own
keyword arguments.
"""


def build_cls_loss(cfg: CfgNode) -> ClassificationLoss:
    """
    Build the loss that `MODEL.FOCAL.CLS_LOSS.NAME` names.

    Raises:
        KeyError: no loss has that name; the message lists the registered ones.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    return build_named(CLS_LOSS_REGISTRY, "MODEL.FOCAL.CLS_LOSS.NAME", cfg)


class IllegalOptionError(ValueError):
    """
    An option of a loss outside its legal range.

    Attributes:
        option: the name of the argument, e.g. "gamma".
        requirement: what it must be and what it is, e.g. "must be >= 0, got -1.0".
    """

    def __init__(self, option: str, requirement: str) -> None:
        super().__init__(f"{option} {requirement}")
        self.option = option
        self.requirement = requirement


class ConfigurableModule(nn.Module):
    """
    A module whose constructor arguments come from config keys that it names itself.

    A subclass with options decorates its `__init__`, keyword arguments only, with `@configurable`.
    An argument that is not in :attr:`config_keys` keeps its default when built from a config.
    """

    config_keys: ClassVar[dict[str, str]] = {}
    """Constructor argument -> full config key."""

    @configurable
    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {argument: _read(cfg, key) for argument, key in cls.config_keys.items()}

    def extra_repr(self) -> str:
        return ", ".join(f"{option}={getattr(self, option)}" for option in self.config_keys)


class ClassificationLoss(ConfigurableModule):
    """
    Base of every classification loss: a sum over anchors and classes, in float32.

    A subclass implements :meth:`per_anchor`. The class attributes are what a detector has to know
    of a loss.
    """

    softmax: ClassVar[bool] = False
    """K+1 logits an anchor, background last, decoded by softmax."""
    needs_quality: ClassVar[bool] = False
    """Wants the IoU of each decoded box with its matched ground truth."""
    own_normalizer: ClassVar[bool] = False
    """Is normalised already: must not be divided by the number of positives."""
    decomposes: ClassVar[bool] = True
    """The sum over feature levels of the loss is the loss of all levels together."""
    stateful: ClassVar[bool] = False
    """Has buffers that are reduced over processes and saved in checkpoints."""

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        """
        The loss of each anchor, summed over classes only; what mining ranks by.

        Args:
            logits: (..., K), any floating dtype; computed in float32.
            labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
            quality: (...), IoU in [0, 1]; only where :attr:`needs_quality`.

        Returns:
            float32 (...); 0 for ignored anchors.
        """
        raise NotImplementedError

    @torch.jit.unused  # training only: keeps the exported detector the stock one
    def forward(self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None) -> Tensor:
        """
        Same arguments as :meth:`per_anchor`, but summed over all anchors that are not ignored.

        Returns:
            float32 scalar; 0 with a graph if no anchor is left.
        """
        return self.per_anchor(logits, labels, quality=quality).sum()


def build_named(classes: Iterable[tuple[str, type]], name_key: str, cfg: CfgNode) -> nn.Module:
    """
    Build the :class:`ConfigurableModule` whose name stands under ``name_key``.

    Args:
        classes: (name, class) pairs, such as a registry.
        name_key: full config key.

    Raises:
        KeyError: no class has that name; the message lists those there are.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    by_name = dict(classes)
    name = _read(cfg, name_key)
    if name not in by_name:
        raise KeyError(f"{name_key} = {name!r} is not one of {', '.join(sorted(by_name))}")
    try:
        return by_name[name](cfg)
    except IllegalOptionError as error:
        key = by_name[name].config_keys[error.option]
        raise ValueError(f"{key} {error.requirement} (with {name_key} = {name!r})") from error


def _read(cfg: CfgNode, full_key: str) -> Any:
    value = cfg
    for part in full_key.split("."):
        value = value[part]
    return value
