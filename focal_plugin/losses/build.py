"""Registries and base classes of classification and box losses."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from ..registry import DENSE, ConfigScope, ConfigurableModule, Registry, build_named

CLS_LOSS_REGISTRY = Registry("CLS_LOSS")
CLS_LOSS_REGISTRY.__doc__ = """
Registry of classification losses, chosen by `MODEL.FOCAL.CLS_LOSS.NAME`.

A registered class is a :class:`ClassificationLoss`, constructed as `Loss(cfg)` or with its own
keyword arguments.
"""


BOX_LOSS_REGISTRY = Registry("BOX_LOSS")
BOX_LOSS_REGISTRY.__doc__ = """
Registry of box losses, chosen by `MODEL.FOCAL.BOX_LOSS.NAME`.

A registered class is a :class:`BoxLoss`, constructed as `Loss(cfg)` or with its own keyword
arguments.
"""

STOCK_BOX_LOSSES = {
    "smooth_l1": "SmoothL1Loss",
    "giou": "GIoULoss",
    "diou": "DIoULoss",
    "ciou": "CIoULoss",
}
"""Registered name of each value of Detectron2's key `MODEL.RETINANET.BBOX_REG_LOSS_TYPE`."""


def build_cls_loss(cfg: CfgNode, config_scope: ConfigScope = DENSE) -> ClassificationLoss:
    """
    Build the loss that `MODEL.FOCAL.CLS_LOSS.NAME` names.

    Args:
        config_scope: the location of the name and the options, if not `MODEL.FOCAL`.

    Raises:
        KeyError: no loss has that name; the message lists the registered ones.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    losses: Iterable[tuple[str, type[ClassificationLoss]]] = CLS_LOSS_REGISTRY
    return build_named(losses, "MODEL.FOCAL.CLS_LOSS.NAME", cfg, config_scope=config_scope)


def build_box_loss(cfg: CfgNode, config_scope: ConfigScope = DENSE) -> BoxLoss:
    """
    Build the loss that `MODEL.FOCAL.BOX_LOSS.NAME` names.

    If that name is empty, Detectron2's own `MODEL.RETINANET.BBOX_REG_LOSS_TYPE` names the loss.

    Args:
        config_scope: the location of the names and the options, if they are moved.

    Raises:
        KeyError: no loss has that name; the message lists the registered ones.
        ValueError: an option is outside its legal range; the message names its full key.
    """
    losses: Iterable[tuple[str, type[BoxLoss]]] = BOX_LOSS_REGISTRY
    if config_scope.read(cfg, "MODEL.FOCAL.BOX_LOSS.NAME"):
        return build_named(losses, "MODEL.FOCAL.BOX_LOSS.NAME", cfg, config_scope=config_scope)
    by_name = dict(losses)
    stock = [(name, by_name[ours]) for name, ours in STOCK_BOX_LOSSES.items()]
    return build_named(stock, "MODEL.RETINANET.BBOX_REG_LOSS_TYPE", cfg, config_scope=config_scope)


def stock_box_loss(loss_type: str, *, smooth_l1_beta: float) -> BoxLoss:
    """
    Build the loss that Detectron2's detectors use for a ``box_reg_loss_type``.

    Args:
        loss_type: "smooth_l1", "giou", "diou" or "ciou".
        smooth_l1_beta: for "smooth_l1" only.
    """
    options = {"beta": smooth_l1_beta} if loss_type == "smooth_l1" else {}
    loss: type[BoxLoss] = BOX_LOSS_REGISTRY.get(STOCK_BOX_LOSSES[loss_type])
    return loss(**options)


class ClassificationLoss(ConfigurableModule):
    """
    Base class of every classification loss: a sum over anchors and classes, in float32.

    A subclass implements :meth:`per_anchor`. The class attributes tell a detector how to use the
    loss.
    """

    softmax: ClassVar[bool] = False
    """True for K+1 logits per anchor, background last, decoded by softmax."""
    needs_quality: ClassVar[bool] = False
    """True if the loss requires the IoU of each decoded box with its matched ground truth."""
    own_normalizer: ClassVar[bool] = False
    """True if the loss is already normalized and must not be divided by the number of positives."""
    any_layout: ClassVar[bool] = False
    """True if the loss reads logits (..., K) of any strides in place, without a copy."""
    decomposes: ClassVar[bool] = True
    """True if the loss of all feature levels together is the sum of the losses per level."""
    stateful: ClassVar[bool] = False
    """True if the loss has buffers: updated by each step, reduced over processes, checkpointed."""

    def per_anchor(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None
    ) -> Tensor:
        """
        Compute the loss of each anchor, summed over classes only. Mining ranks anchors by it.

        Args:
            logits: (..., K), or (..., K+1) if :attr:`softmax`; any floating dtype, computed in
                float32.
            labels: (...), integer in {-1 (ignored), 0..K-1, K (background)}.
            quality: (...), IoU in [0, 1] of the anchors with a class; only if
                :attr:`needs_quality`.

        Returns:
            float32 (...); 0 for ignored anchors.
        """
        raise NotImplementedError

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Update the buffers of a :attr:`stateful` loss after a step, without gradients."""

    def observe(self, logits: Tensor, labels: Tensor) -> None:
        """Call :meth:`update` in training mode. Every training step ends with this call."""
        if self.training:
            self.update(logits, labels)

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None) -> Tensor:
        """
        Compute the loss, summed over all anchors that are not ignored, and call :meth:`observe`.

        The arguments are those of :meth:`per_anchor`.

        Returns:
            float32 scalar; a differentiable 0 if every anchor is ignored.
        """
        loss = self.per_anchor(logits, labels, quality=quality).sum()
        self.observe(logits, labels)
        return loss

    if TYPE_CHECKING:  # nn.Module declares its call as Callable[..., Any]
        __call__ = forward

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def of_levels(
        self,
        logits: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        quality: Sequence[Tensor] | None = None,
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        """
        Compute the loss of several tensors, the levels of a feature pyramid.

        The arguments are sequences of those of :meth:`forward`.

        Args:
            scale: factor of the sum, a number or a scalar tensor; a constant.

        Returns:
            float32 scalar.
        """
        qualities: Sequence[Tensor | None] = quality or [None] * len(logits)
        levels = zip(logits, labels, qualities, strict=True)
        losses = [self(x, y, quality=z) for x, y, z in levels]
        return functools.reduce(torch.add, losses) * scale


class BoxLoss(ConfigurableModule):
    """
    Base class of every box loss: a sum over positive anchors, in float32.

    A subclass implements :meth:`per_box`.
    """

    on_boxes: ClassVar[bool] = False
    """True if the loss compares decoded boxes (x1, y1, x2, y2) in pixels, not regression deltas."""
    own_normalizer: ClassVar[bool] = False
    """True if the loss is already normalized and must not be divided by the number of positives."""
    stateful: ClassVar[bool] = False
    """True if the loss has buffers: updated by each step, reduced over processes, checkpointed."""

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        """
        Compute the loss of each box, summed over its coordinates.

        Args:
            pred: (V, 4), deltas, or boxes if :attr:`on_boxes`; computed in float32.
            target: (V, 4), deltas or boxes like ``pred``.

        Returns:
            float32 (V,).
        """
        raise NotImplementedError

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Update the buffers of a :attr:`stateful` loss after a step, without gradients."""

    def observe(self, pred: Tensor, target: Tensor) -> None:
        """Call :meth:`update` in training mode. Every training step ends with this call."""
        if self.training:
            self.update(pred, target)

    @torch.jit.unused  # training only: the exported detector stays the stock one
    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """
        Compute the loss, summed over all boxes, and call :meth:`observe`.

        The arguments are those of :meth:`per_box`.

        Returns:
            float32 scalar; a differentiable 0 if there is no box.
        """
        loss = self.per_box(pred, target).sum()
        self.observe(pred, target)
        return loss

    if TYPE_CHECKING:  # nn.Module declares its call as Callable[..., Any]
        __call__ = forward
